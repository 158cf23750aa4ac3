"""Who gets the mail of an address, and who may send as it."""

from __future__ import annotations

from model.account_changes import add_alias, set_catch_all
from model.accounts import Accounts
from stack.addresses import NOBODY, alias_domains, aliases, sender_logins, single_mailboxes
from tests.unit.stack_samples import accounts

ALICE = "alice@example.com"
BOB = "bob@example.org"
CARL = "  - {address: carl@bücher.example, aliases: [info@bücher.example]}\n"
INTERNATIONAL = "example.com, example.org, bücher.example"


def _two() -> Accounts:
    return accounts(f"  - {{address: {BOB}}}\n")


def test_what_every_domain_must_have_goes_to_the_administrator() -> None:
    assert aliases(accounts()) == {
        "abuse@example.com": (ALICE,),
        "abuse@example.org": (ALICE,),
        "postmaster@example.com": (ALICE,),
        "postmaster@example.org": (ALICE,),
        "postmaster@mx.example.com": (ALICE,),
        "sales@example.org": (ALICE,),
    }


def test_who_has_claimed_it_keeps_it() -> None:
    bob = "  - {address: bob@example.com, aliases: [postmaster@example.org]}\n"
    found = aliases(accounts(f"{bob}  - {{address: abuse@example.com}}\n"))
    assert found["postmaster@example.org"] == ("bob@example.com",)
    assert "abuse@example.com" not in found  # a mailbox of its own


def test_an_international_domain_is_known_by_both_names() -> None:
    international = set_catch_all(accounts(CARL, INTERNATIONAL), "bücher.example", "carl@bücher.example")
    found = aliases(international)
    carl = ("carl@xn--bcher-kva.example",)
    for domain in ("bücher.example", "xn--bcher-kva.example"):
        for name in ("carl", "info", ""):
            assert found[f"{name}@{domain}"] == carl
    assert found["postmaster@bücher.example"] == (ALICE,)
    assert alias_domains(international) == ["mx.example.com", "bücher.example"]
    assert sender_logins(international)["@bücher.example"] == carl


def test_a_host_name_that_is_a_mail_domain_is_no_alias_domain() -> None:
    assert alias_domains(accounts(domains="example.com, example.org, mx.example.com")) == []


def test_a_catch_all_takes_nothing_from_mailboxes() -> None:
    """Postfix looks for aliases before it looks for mailboxes."""
    found = aliases(set_catch_all(_two(), "example.org", ALICE))
    assert found["@example.org"] == (ALICE,)
    assert found[BOB] == (BOB,)
    assert ALICE not in found  # its domain has no catch-all
    assert "@example.com" not in found


def test_an_alias_may_have_several_targets_and_lead_to_others() -> None:
    changed = add_alias(_two(), "family@example.com", [ALICE, BOB])
    changed = add_alias(changed, "all@example.com", ["family@example.com", "friend@example.net"])
    found = aliases(changed)
    assert found["family@example.com"] == (ALICE, BOB)
    assert found["all@example.com"] == ("family@example.com", "friend@example.net")
    assert sender_logins(changed)["all@example.com"] == (ALICE, BOB)


def test_a_user_may_send_as_whatever_arrives_in_the_own_mailbox() -> None:
    international = accounts(CARL, INTERNATIONAL)
    assert sender_logins(international) == {
        **aliases(international),
        ALICE: (ALICE,),
        "carl@xn--bcher-kva.example": ("carl@xn--bcher-kva.example",),
    }


def test_an_administrator_who_is_named_by_an_alias_logs_in_by_the_mailbox() -> None:
    boss = accounts().model_copy(update={"admin": "sales@example.org"})
    assert aliases(boss)["abuse@example.com"] == ("sales@example.org",)
    assert sender_logins(boss)["abuse@example.com"] == (ALICE,)
    assert set(sender_logins(boss).values()) == {(ALICE,)}


def test_the_owner_of_a_catch_all_may_not_send_as_what_is_somebody_elses() -> None:
    changed = add_alias(set_catch_all(_two(), "example.org", ALICE), "away@example.org", ["friend@example.net"])
    found = sender_logins(changed)
    assert found["@example.org"] == (ALICE,)
    assert found[BOB] == (BOB,)
    assert found["away@example.org"] == (NOBODY,)


def test_an_address_has_the_room_of_the_one_mailbox_that_it_leads_to() -> None:
    known = _two()
    for address, targets in {
        "one@example.com": (BOB,),
        "through@example.com": ("one@example.com", "bob+x@example.org"),
        "two@example.com": (ALICE, BOB),
        "outside@example.com": (BOB, "friend@example.net"),
        "hidden@example.com": ("outside@example.com",),
    }.items():
        known = add_alias(known, address, targets)
    found = single_mailboxes(set_catch_all(known, "example.org", ALICE))
    assert found["one@example.com"] == found["through@example.com"] == BOB
    assert found["sales@example.org"] == found["@example.org"] == found["postmaster@mx.example.com"] == ALICE
    assert not {"two@example.com", "outside@example.com", "hidden@example.com", ALICE, BOB} & set(found)
