"""Passwords: which are good, which are made, and that none is kept in clear."""

from __future__ import annotations

import itertools
import math
import re

import pytest
from argon2 import PasswordHasher

from model.accounts import Account, Accounts, first_accounts
from model.problems import Refusal
from stack.passwords import check_password, expect, generate_password, hash_password, settle
from tests.unit.stack_samples import HASH, site

ALICE = "alice@example.com"
BOB = "bob@example.org"


def _accounts(wish: str = "generate") -> Accounts:
    return first_accounts(site(f"  - {{address: {BOB}, password: {wish}}}\n"))


def test_who_has_a_password_keeps_it() -> None:
    made = first_accounts(site())
    settled = settle(made, hash_password, generate_password)
    assert settled.accounts == made
    assert settled.unseen == {}


@pytest.mark.parametrize("wish", ["generate", "prompt"])
def test_a_password_is_made_where_there_is_none(wish: str) -> None:
    settled = settle(_accounts(wish), lambda password: f"hash of {password}", lambda: "secret")
    assert settled.unseen == {BOB: "secret"}
    assert settled.accounts.users[0].password_hash == HASH
    assert settled.accounts.users[1] == Account.model_construct(address=BOB, password_hash="hash of secret", quota=None)


def test_it_is_another_one_each_time() -> None:
    numbers = itertools.count(1)
    for number in (1, 2):
        settled = settle(_accounts(), str, lambda: f"password {next(numbers)}")
        assert settled.unseen == {BOB: f"password {number}"}


def test_an_expectation_makes_nothing() -> None:
    expected = expect(_accounts())
    assert [user.password_hash for user in expected.users] == [HASH, ""]
    assert expect(first_accounts(site())) == first_accounts(site())


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


@pytest.mark.parametrize(
    "password",
    ["correct horse", "äöüäöüäöüä", " 0123456789 ", "x" * 512, pytest.param(generate_password(), id="generated")],
)
def test_good_passwords(password: str) -> None:
    assert check_password(password) == password


@pytest.mark.parametrize("password", ["", "short", "x" * 513, "ä" * 300, "with a\ttab in it", "with a \0 in it"])
def test_bad_passwords_are_refused_and_not_quoted(password: str) -> None:
    with pytest.raises(Refusal) as refused:
        check_password(password)
    assert not password or password not in str(refused.value)


def test_bytes_that_are_no_utf_8_are_refused_in_words() -> None:
    with pytest.raises(Refusal, match="no key"):
        check_password(b"\xff\xfe geheim lang genug".decode(errors="surrogateescape"))
