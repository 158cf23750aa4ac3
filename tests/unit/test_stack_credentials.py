"""Passwords: none is lost unseen, none is kept in clear."""

from __future__ import annotations

import itertools
import math
import re
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from argon2 import PasswordHasher

from stack.credentials import CredentialsError, Settled, expect, generate_password, hash_password, mark_shown, settle
from stack.render import Account
from tests.unit.power_cut import at_every_step
from tests.unit.stack_samples import HASH, site

BOB = "bob@example.org"
SITE = site(f"  - {{address: {BOB}, password: generate}}\n")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "credentials.json"


def _numbered() -> Callable[[], str]:
    numbers = itertools.count(1)
    return lambda: f"password {next(numbers)}"


def _settle(store: Path, generate: Callable[[], str]) -> Settled:
    return settle(SITE, store, lambda password: f"hash of {password}", generate)


def test_a_hash_from_the_site_is_used_as_it_is(store: Path) -> None:
    assert settle(site(), store, hash_password, generate_password) == Settled((Account("alice@example.com", HASH),), {})
    assert not store.exists()


@pytest.mark.parametrize("wish", ["generate", "prompt"])
def test_a_password_is_made_where_the_site_has_none(store: Path, wish: str) -> None:
    wished = site(f"  - {{address: {BOB}, password: {wish}}}\n")
    settled = settle(wished, store, lambda password: f"hash of {password}", lambda: "secret")
    assert settled.unseen == {BOB: "secret"}
    assert settled.accounts[1] == Account(BOB, "hash of secret")


def test_a_password_that_was_shown_stays_and_is_not_shown_again(store: Path) -> None:
    generate = _numbered()
    first = _settle(store, generate)
    mark_shown(store, first.unseen)
    assert _settle(store, generate) == Settled(first.accounts, {})


def test_a_password_that_was_not_shown_is_made_anew(store: Path) -> None:
    generate = _numbered()
    first = _settle(store, generate)
    second = _settle(store, generate)
    assert second.unseen == {BOB: "password 2"}
    assert second.accounts != first.accounts


def test_expectation_is_what_comes_and_makes_nothing(store: Path) -> None:
    assert expect(SITE, store) == Settled((Account("alice@example.com", HASH), Account(BOB, "")), {BOB: ""})
    assert not store.exists()
    settled = _settle(store, _numbered())
    assert expect(SITE, store).unseen == {BOB: ""}, "nobody has seen it: it will be made anew"
    mark_shown(store, settled.unseen)
    before = store.read_bytes()
    assert expect(SITE, store) == _settle(store, _numbered())
    assert store.read_bytes() == before


def test_a_power_cut_never_leaves_an_account_whose_password_nobody_has_seen(tmp_path: Path) -> None:
    attempts = itertools.count()
    shown: dict[str, str] = {}

    def start() -> Settled:
        """One start of the device, up to the mark."""
        store = tmp_path / f"{next(attempts)}.json"
        settled = _settle(store, _numbered())
        shown.update(settled.unseen)
        mark_shown(store, settled.unseen)
        return settled

    for number in at_every_step(start):
        store = tmp_path / f"{number}.json"
        settled = _settle(store, lambda: "made after the cut")
        shown.update(settled.unseen)
        assert settled.accounts[1].password_hash == f"hash of {shown[BOB]}"
        shown.clear()


def test_the_store_holds_no_password_and_is_for_root_only(store: Path) -> None:
    settled = settle(SITE, store, hash_password, generate_password)
    assert settled.unseen[BOB] not in store.read_text()
    assert stat.S_IMODE(store.stat().st_mode) == 0o600


def test_a_broken_store_is_an_error_with_its_name(store: Path) -> None:
    store.write_text("{}}")
    with pytest.raises(CredentialsError, match=r"credentials\.json cannot be used"):
        _settle(store, _numbered())


def test_generated_passwords_are_strong_and_readable() -> None:
    passwords = [generate_password() for _ in range(200)]
    assert len(set(passwords)) == 200
    letters = set("".join(passwords)) - {"-"}
    assert not letters & set("ilo01")
    assert all(re.fullmatch(r"[a-z]{4}(-[a-z]{4}){4}", password) for password in passwords)
    assert len(letters) == 23  # all of them occur: 1 - 23 * (22/23)**4000 is as good as 1
    assert 20 * math.log2(len(letters)) >= 80


def test_the_hash_is_one_that_the_site_would_take_too() -> None:
    hashed = hash_password("correct horse")
    assert PasswordHasher().verify(hashed, "correct horse")
    assert site(f'  - {{address: {BOB}, password: "{hashed}"}}\n').users[1].password == hashed
