"""First passwords that are asked for while an image is built."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.passwords import settle_passwords
from model.site import Site
from stack.passwords import fits

ALICE = "alice@example.com"
GOOD = "four random words"


def _site(password: str) -> Site:
    values = {"domains": ["example.com"], "disk": {"unlock": "none"}}
    return Site.model_validate({"version": 1, **values, "users": [{"address": ALICE, "password": password}]})


class _Terminal:
    """Somebody at a terminal who types some passwords one after the other."""

    def __init__(self, *typed: str) -> None:
        self._typed: Iterator[str] = iter(typed)
        self.said: list[str] = []

    def isatty(self) -> bool:
        return True

    def ask(self, address: str) -> str:
        assert address == ALICE
        return next(self._typed)


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        ("short", "a password of 5 characters"),
        ("four random\twords", "characters that have no key"),
        # As a terminal gives bytes that are no UTF-8.
        (b"four \xff words".decode(errors="surrogateescape"), "characters that have no key"),
        # Longer than Postfix takes: the device would have a password by which nobody can send.
        ("word " * 103 + "end", "a password of 518 bytes"),
    ],
)
def test_what_the_device_would_refuse_is_asked_for_again(bad: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = _Terminal(bad, GOOD)
    monkeypatch.setattr(sys, "stdin", terminal)
    monkeypatch.setattr(sys, "stderr", terminal)
    settled = settle_passwords(_site("prompt"), terminal.ask, terminal.said.append)
    assert fits(settled.users[0].password, GOOD)
    (said,) = terminal.said
    assert told in said
    assert bad not in said


def test_without_a_terminal_the_device_makes_one(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = _Terminal()
    with Path("/dev/null").open() as nothing:
        monkeypatch.setattr(sys, "stdin", nothing)
        settled = settle_passwords(_site("prompt"), terminal.ask, terminal.said.append)
    assert settled.users[0].password == "generate"
    assert ALICE in terminal.said[0]


def test_a_hash_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = _Terminal(GOOD)
    monkeypatch.setattr(sys, "stdin", terminal)
    monkeypatch.setattr(sys, "stderr", terminal)
    made = settle_passwords(_site("prompt"), terminal.ask, terminal.said.append)
    assert settle_passwords(made, terminal.ask, terminal.said.append) == made
