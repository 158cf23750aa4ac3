"""Whose mailbox an address is, and who may send as it."""

from __future__ import annotations

from stack.addresses import alias_domains, aliases, sender_logins
from tests.unit.stack_samples import site

ALICE = "alice@example.com"


def test_what_every_domain_must_have_goes_to_the_administrator() -> None:
    assert aliases(site()) == {
        "abuse@example.com": ALICE,
        "abuse@example.org": ALICE,
        "postmaster@example.com": ALICE,
        "postmaster@example.org": ALICE,
        "postmaster@mx.example.com": ALICE,
        "sales@example.org": ALICE,
    }


def test_who_has_claimed_it_keeps_it() -> None:
    bob = "  - {address: bob@example.com, aliases: [postmaster@example.org]}\n"
    found = aliases(site(f"{bob}  - {{address: abuse@example.com}}\n"))
    assert found["postmaster@example.org"] == "bob@example.com"
    assert "abuse@example.com" not in found  # a mailbox of its own


def test_an_international_domain_is_known_by_both_names() -> None:
    carl = "  - {address: carl@bücher.example, aliases: [info@bücher.example]}\n"
    international = site(carl, "example.com, example.org, bücher.example")
    found = aliases(international)
    assert found["carl@bücher.example"] == "carl@xn--bcher-kva.example"
    assert found["info@bücher.example"] == found["info@xn--bcher-kva.example"] == "carl@xn--bcher-kva.example"
    assert found["postmaster@bücher.example"] == ALICE
    assert alias_domains(international) == ["mx.example.com", "bücher.example"]


def test_a_host_name_that_is_a_mail_domain_is_no_alias_domain() -> None:
    assert alias_domains(site(domains="example.com, example.org, mx.example.com")) == []


def test_a_user_may_send_as_whatever_arrives_in_the_own_mailbox() -> None:
    carl = "  - {address: carl@bücher.example, aliases: [info@bücher.example]}\n"
    international = site(carl, "example.com, example.org, bücher.example")
    found = sender_logins(international)
    assert found == {
        **aliases(international),
        ALICE: ALICE,
        "carl@xn--bcher-kva.example": "carl@xn--bcher-kva.example",
    }


def test_an_administrator_who_is_named_by_an_alias_logs_in_by_the_mailbox() -> None:
    boss = site().model_copy(update={"admin": "sales@example.org"})
    assert aliases(boss)["abuse@example.com"] == "sales@example.org"
    assert sender_logins(boss)["abuse@example.com"] == ALICE
    assert set(sender_logins(boss).values()) == {ALICE}
