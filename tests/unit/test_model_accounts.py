"""The accounts of a home: how a Site starts them, what they may be changed to, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from pydantic import ValidationError

from model.account_changes import (
    add_alias,
    add_domain,
    add_user,
    remove_alias,
    remove_domain,
    remove_user,
    set_admin,
    set_catch_all,
    set_password,
    set_quota,
)
from model.account_rules import owners
from model.accounts import Account, Accounts, Alias, MailDomain, first_accounts
from model.problems import Kind, Refusal
from model.quota import quota_bytes, quota_text
from tests.unit.stack_samples import HASH, accounts, site

ALICE = "alice@example.com"
BOB = "bob@example.org"
HOME = accounts(f"  - {{address: {BOB}}}\n")


def _refused(change: Callable[[], Accounts], kind: Kind, remedy: str = "") -> None:
    with pytest.raises(Refusal) as refused:
        change()
    assert refused.value.kind is kind, refused.value
    assert refused.value.expected
    assert remedy in refused.value.remedy, refused.value


def test_a_site_starts_them() -> None:
    bob = "  - {address: bob@example.org, quota: 5g, catch_all: [example.org], password: generate}\n"
    assert first_accounts(site(bob)) == Accounts(
        domains=(MailDomain(name="example.com"), MailDomain(name="example.org", catch_all=BOB)),
        users=(Account(address=ALICE, password_hash=HASH), Account(address=BOB, quota=5 * 1024**3)),
        aliases=(Alias(address="sales@example.org", targets=(ALICE,)),),
        admin=ALICE,
    )


def test_the_machines_names_follow_from_the_first_domain() -> None:
    home = accounts(domains="Müller.example, example.com, example.org")
    assert home.primary_domain == "xn--mller-kva.example"
    assert home.mail_host == "mail.xn--mller-kva.example"
    assert home.mx_host == "mx.xn--mller-kva.example"


def test_what_is_stored_is_read_again() -> None:
    changed = add_alias(
        set_quota(set_catch_all(HOME, "example.org", BOB), BOB, 1024**3), "x@example.com", ["A+b@C.NET"]
    )
    assert Accounts.model_validate_json(changed.model_dump_json()) == changed
    assert changed.targets["x@example.com"] == ("A+b@c.net",)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("version", 2),
        ("domains", []),
        ("users", []),
        ("admin", "nobody@example.com"),
        ("aliases", [{"address": BOB, "targets": [ALICE]}]),
        ("aliases", [{"address": "Sales@example.com", "targets": [ALICE]}]),
        ("aliases", [{"address": "sales@example.com", "targets": []}]),
        ("aliases", [{"address": "sales@example.com", "targets": ["x\nroot"]}]),
        ("unknown", 1),
    ],
)
def test_a_damaged_store_is_no_accounts(key: str, value: object) -> None:
    stored = json.loads(HOME.model_dump_json())
    with pytest.raises(ValidationError) as refused:
        Accounts.model_validate_json(json.dumps({**stored, key: value}))
    assert HASH not in str(refused.value)
    assert HASH not in repr(HOME)


def test_a_domain_comes_and_goes() -> None:
    changed = add_domain(HOME, "Bücher.example")
    assert changed.domains[-1] == MailDomain(name="xn--bcher-kva.example")
    assert remove_domain(changed, "bücher.EXAMPLE") == HOME


def test_domains_that_are_refused() -> None:
    _refused(lambda: add_domain(HOME, "example"), Kind.BAD_DOMAIN)
    _refused(lambda: add_domain(HOME, "EXAMPLE.org"), Kind.TWICE)
    _refused(lambda: remove_domain(HOME, "example.net"), Kind.UNKNOWN_DOMAIN)
    _refused(lambda: remove_domain(HOME, "exmaple.org"), Kind.UNKNOWN_DOMAIN, "did you mean `example.org`?")
    _refused(lambda: remove_domain(HOME, "example.com"), Kind.IN_USE, "mx.example.com")
    _refused(lambda: remove_domain(HOME, "example.org"), Kind.IN_USE, "darkpipe user remove")
    without_bob = remove_user(HOME, BOB)
    _refused(lambda: remove_domain(without_bob, "example.org"), Kind.IN_USE, "darkpipe alias remove")
    outside = add_alias(HOME, "club@example.com", ["friend@example.net"])
    _refused(lambda: add_domain(outside, "example.net"), Kind.IN_USE)


def test_catch_alls() -> None:
    changed = set_catch_all(HOME, "example.com", "Bob@Example.ORG")
    assert changed.domains[0].catch_all == BOB
    assert set_catch_all(changed, "example.com", None) == HOME
    _refused(lambda: set_catch_all(HOME, "example.com", "carol@example.com"), Kind.UNKNOWN_ADDRESS, "user list")
    _refused(lambda: set_catch_all(HOME, "example.com", "sales@example.org"), Kind.UNKNOWN_ADDRESS)
    _refused(lambda: set_catch_all(HOME, "example.com", "friend@example.net"), Kind.UNKNOWN_ADDRESS)
    _refused(lambda: set_catch_all(HOME, "example.net", BOB), Kind.UNKNOWN_DOMAIN)


def test_users_come_change_and_go() -> None:
    changed = add_user(HOME, "Carol@Example.com", HASH, 1024**3)
    assert changed.users[-1] == Account(address="carol@example.com", password_hash=HASH, quota=1024**3)
    assert set_quota(changed, "carol@example.com", None).users[-1].quota is None
    assert set_password(changed, "carol@example.com", None).users[-1].password_hash is None
    assert remove_user(changed, "carol@example.com") == HOME


def test_users_that_are_refused() -> None:
    _refused(lambda: add_user(HOME, "carol", HASH), Kind.BAD_ADDRESS)
    _refused(lambda: add_user(HOME, "carol+x@example.com", HASH), Kind.BAD_ADDRESS)
    _refused(lambda: add_user(HOME, "carol@example.net", HASH), Kind.FOREIGN_DOMAIN, "domain add example.net")
    _refused(lambda: add_user(HOME, ALICE.upper(), HASH), Kind.TWICE)
    _refused(lambda: add_user(HOME, "sales@example.org", HASH), Kind.TWICE)
    _refused(lambda: set_quota(HOME, "carol@example.com", None), Kind.UNKNOWN_ADDRESS, "user list")
    _refused(lambda: set_password(HOME, "bob@example.com", HASH), Kind.UNKNOWN_ADDRESS, f"did you mean `{BOB}`?")
    _refused(lambda: set_password(HOME, "sales@example.org", HASH), Kind.UNKNOWN_ADDRESS, ALICE)


def test_who_cannot_be_removed() -> None:
    _refused(lambda: remove_user(accounts(), ALICE), Kind.LAST_ONE, "user add")
    _refused(lambda: remove_user(HOME, ALICE), Kind.IN_USE, "user admin")
    caught = set_catch_all(HOME, "example.org", BOB)
    _refused(lambda: remove_user(caught, BOB), Kind.IN_USE, "darkpipe domain catch-all example.org")
    with_alias = add_alias(HOME, "robert@example.com", ["bob+x@example.org"])
    _refused(lambda: remove_user(with_alias, BOB), Kind.IN_USE, "--with-aliases")
    with_admin = set_admin(with_alias, "robert@example.com")
    _refused(lambda: remove_user(with_admin, BOB, with_aliases=True), Kind.UNKNOWN_ADMIN, "user admin")


def test_a_user_goes_with_the_aliases_that_lead_to_nobody_else() -> None:
    home = add_alias(HOME, "robert@example.com", [BOB])
    home = add_alias(home, "rob@example.com", ["robert@example.com"])
    home = add_alias(home, "family@example.com", [ALICE, "rob+x@example.com", "friend@example.net"])
    left = remove_user(home, BOB, with_aliases=True)
    assert left.targets == {"sales@example.org": (ALICE,), "family@example.com": (ALICE, "friend@example.net")}


def test_the_administrator() -> None:
    assert set_admin(HOME, BOB.upper()).admin == BOB
    assert set_admin(HOME, "sales@example.org").admin == "sales@example.org"
    _refused(lambda: set_admin(HOME, "carol@example.com"), Kind.UNKNOWN_ADDRESS)
    outside = add_alias(HOME, "club@example.com", ["friend@example.net"])
    _refused(lambda: set_admin(outside, "club@example.com"), Kind.UNKNOWN_ADMIN)


def test_aliases_come_grow_and_go() -> None:
    one = add_alias(HOME, "Family@Example.com", ["Alice+F@Example.com"])
    assert one.targets["family@example.com"] == ("alice+f@example.com",)
    two = add_alias(one, "family@example.com", [BOB, "Some.One+x@example.NET"])
    assert two.targets["family@example.com"] == ("alice+f@example.com", BOB, "Some.One+x@example.net")
    assert owners("family+y@example.com", two) == {ALICE, BOB}
    assert remove_alias(two, "family@example.com", [BOB, "Some.One+x@example.net"]) == one
    assert remove_alias(two, "family@example.com") == HOME
    assert remove_alias(one, "family@example.com", ["alice+f@example.com"]) == HOME
    assert add_alias(HOME, "postmaster@example.com", [BOB]).targets["postmaster@example.com"] == (BOB,)


def test_aliases_that_are_refused() -> None:
    _refused(lambda: add_alias(HOME, BOB, [ALICE]), Kind.TWICE)
    _refused(lambda: add_alias(HOME, "x@example.net", [ALICE]), Kind.FOREIGN_DOMAIN)
    _refused(lambda: add_alias(HOME, "x@example.com", [ALICE, ALICE]), Kind.TWICE)
    _refused(lambda: add_alias(HOME, "sales@example.org", [ALICE]), Kind.TWICE)
    _refused(lambda: add_alias(HOME, "x@example.com", ["nobody@example.org"]), Kind.UNKNOWN_ADDRESS)
    _refused(lambda: add_alias(HOME, "x@example.com", ["postmaster@mx.example.com"]), Kind.UNKNOWN_ADDRESS)
    _refused(lambda: remove_alias(HOME, "x@example.com"), Kind.UNKNOWN_ADDRESS, "alias list")
    _refused(lambda: remove_alias(HOME, BOB), Kind.UNKNOWN_ADDRESS, "user remove")
    _refused(lambda: remove_alias(HOME, "abuse@example.org"), Kind.UNKNOWN_ADDRESS, "alias add abuse@example.org")
    _refused(lambda: remove_alias(HOME, "sales@example.org", [BOB]), Kind.UNKNOWN_ADDRESS)
    boss = set_admin(HOME, "sales@example.org")
    _refused(lambda: remove_alias(boss, "sales@example.org"), Kind.IN_USE, "user admin")
    led = add_alias(HOME, "shop@example.com", ["sales@example.org"])
    _refused(lambda: remove_alias(led, "sales@example.org"), Kind.IN_USE, "alias remove shop@example.com")


@pytest.mark.parametrize(
    "target", ["|/bin/sh@a.net", "a b@a.net", "a,b@a.net", '"a"@a.net', "x", "-a@a.net", "a@a.net\nb"]
)
def test_targets_that_a_mail_server_might_misread_are_refused(target: str) -> None:
    _refused(
        lambda: add_alias(HOME, "x@example.com", [target]), Kind.BAD_DOMAIN if "\n" in target else Kind.BAD_ADDRESS
    )


def test_aliases_that_go_round_are_refused() -> None:
    home = add_alias(HOME, "b@example.com", ["sales@example.org"])
    home = add_alias(home, "c@example.com", ["b+x@example.com", BOB])
    _refused(lambda: add_alias(home, "sales@example.org", ["c@example.com"]), Kind.LOOP)
    _refused(lambda: add_alias(home, "d@example.com", ["d@example.com"]), Kind.LOOP)
    _refused(lambda: add_alias(home, "d@example.com", ["d+x@example.com", BOB]), Kind.LOOP)
    for number in range(20):  # every way through these doubles
        names = [f"{letter}{number}@example.com" for letter in "lr"]
        targets = [BOB] if number == 0 else [f"{letter}{number - 1}@example.com" for letter in "lr"]
        for name in names:
            home = add_alias(home, name, targets)
    assert owners("l19@example.com", home) == {BOB}


@pytest.mark.parametrize(
    ("text", "size", "usual"),
    [
        ("5G", 5 * 1024**3, "5G"),
        (" 500 m", 500 * 1024**2, "500M"),
        ("2048MiB", 2 * 1024**3, "2G"),
        ("1TB", 1024**4, "1T"),
    ],
)
def test_quotas(text: str, size: int, usual: str) -> None:
    assert quota_bytes(text) == size
    assert quota_text(size) == usual


@pytest.mark.parametrize(
    "text", ["", "5", "G", "-5G", "0G", "1.5G", "5GG", "5K", "10M", "2000T", "5G 5G", "\u0665G", "none"]
)
def test_nonsense_is_no_quota(text: str) -> None:
    with pytest.raises(Refusal) as refused:
        quota_bytes(text)
    assert refused.value.kind is Kind.BAD_QUOTA
