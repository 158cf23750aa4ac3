"""Passwords of mailboxes: the hash that the Site brings, or one that is made here and shown once.

A password that was made is stored as a hash only, with a mark that says whether somebody has been shown it. A cut
between storing and showing leaves the mark unset, and the next start makes another one. Shown means: some console took
the text. Whether somebody was looking at it cannot be known here.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from model.passwords import GENERATE, PROMPT
from model.site import Site
from stack.durable import write_atomically
from stack.render import Account

_TO_BE_MADE = (GENERATE, PROMPT)
"""The device makes a password also for those that should have been asked for earlier: nobody could be."""

_ALPHABET = "abcdefghjkmnpqrstuvwxyz"  # without i, l and o, which look like others
_GROUPS = 5
_GROUP_LENGTH = 4


class CredentialsError(Exception):
    """The store of passwords cannot be read; the text names the file."""


class _Made(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    hash: str
    shown: bool


class _Store(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    version: int = 1
    made: dict[str, _Made] = {}


@dataclass(frozen=True)
class Settled:
    """Every account with its password's hash, and the passwords that somebody has still to be shown.

    Args:
        unseen: address to password, in clear text; nothing else knows it.
    """

    accounts: tuple[Account, ...]
    unseen: Mapping[str, str]


def settle(site: Site, path: Path, hash_password: Callable[[str], str], generate: Callable[[], str]) -> Settled:
    """Give every user of the Site a password hash; make passwords where the Site asks for it.

    Args:
        path: the store, a JSON file that only root may read.

    Raises:
        CredentialsError: the store is broken.
    """
    made = dict(_read(path).made)
    unseen = {}
    accounts = []
    for user in site.users:
        if user.password not in _TO_BE_MADE:
            accounts.append(Account(user.address, user.password))
            continue
        if user.address not in made or not made[user.address].shown:
            unseen[user.address] = generate()
            made[user.address] = _Made(hash=hash_password(unseen[user.address]), shown=False)
        accounts.append(Account(user.address, made[user.address].hash))
    if unseen:
        _write(path, made)
    return Settled(tuple(accounts), unseen)


def expect(site: Site, path: Path) -> Settled:
    """Tell what `settle` would give, and change nothing.

    A password that it would make stands in `unseen` as an empty text, and has an empty hash.

    Raises:
        CredentialsError: the store is broken.
    """
    made = {address: entry.hash for address, entry in _read(path).made.items() if entry.shown}
    unseen = {user.address: "" for user in site.users if user.password in _TO_BE_MADE and user.address not in made}
    hashes = {user.address: user.password for user in site.users if user.password not in _TO_BE_MADE} | unseen
    return Settled(tuple(Account(user.address, {**made, **hashes}[user.address]) for user in site.users), unseen)


def mark_shown(path: Path, addresses: Iterable[str]) -> None:
    """Remember that the passwords of these addresses were shown, so that they stay."""
    made = dict(_read(path).made)
    for address in addresses:
        made[address] = made[address].model_copy(update={"shown": True})
    _write(path, made)


def generate_password() -> str:
    """Make a password that is easy to read and to type: five groups of four letters, 90 bits."""
    groups = ("".join(secrets.choice(_ALPHABET) for _ in range(_GROUP_LENGTH)) for _ in range(_GROUPS))
    return "-".join(groups)


def hash_password(password: str) -> str:
    """Hash with argon2id at costs that a Raspberry Pi can bear at each login (RFC 9106 §4, second choice)."""
    # Imported here: an apply that makes no password does without the library.
    from argon2 import PasswordHasher

    return PasswordHasher(time_cost=3, memory_cost=65536, parallelism=4).hash(password)


def _read(path: Path) -> _Store:
    try:
        return _Store.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return _Store()
    except (OSError, ValidationError) as error:
        raise CredentialsError(f"{path} cannot be used: {error}") from error


def _write(path: Path, made: Mapping[str, _Made]) -> None:
    store = _Store(made=dict(sorted(made.items())))
    write_atomically(path, json.dumps(store.model_dump(), indent=1).encode() + b"\n", 0o600)
