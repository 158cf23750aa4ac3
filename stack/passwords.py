"""Passwords of mailboxes: good ones, their hashes, and those that the device makes itself.

A password that was made is shown once and stored as a hash only, after it was shown: a cut in between leaves the
account without one, and the next apply makes another. Shown means: some terminal took the text. Whether somebody was
looking at it cannot be known here.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from model.accounts import Accounts
from model.problems import Kind, Refusal

SHORTEST = 10
"""Characters of a password that a person chooses."""

_LONGEST = 512
"""Bytes. Postfix takes lines of 2 KiB while somebody logs in, in base64 (line_length_limit, postconf(5))."""

_ALPHABET = "abcdefghjkmnpqrstuvwxyz"  # without i, l and o, which look like others
_GROUPS = 5
_GROUP_LENGTH = 4


@dataclass(frozen=True)
class Settled:
    """Accounts that all have a password, and the passwords that somebody has still to be shown.

    Args:
        unseen: address to password, in clear text; nothing else knows it.
    """

    accounts: Accounts
    unseen: Mapping[str, str]


def settle(accounts: Accounts, hash_password: Callable[[str], str], generate: Callable[[], str]) -> Settled:
    """Make a password for every user who has none."""
    unseen = {user.address: generate() for user in accounts.users if user.password_hash is None}
    users = tuple(
        user.model_copy(update={"password_hash": hash_password(unseen[user.address])})
        if user.address in unseen
        else user
        for user in accounts.users
    )
    return Settled(accounts.model_copy(update={"users": users}), unseen)


def expect(accounts: Accounts) -> Accounts:
    """Tell what `settle` would give, and make nothing: a password that it would make has an empty hash."""
    users = tuple(
        user if user.password_hash is not None else user.model_copy(update={"password_hash": ""})
        for user in accounts.users
    )
    return accounts.model_copy(update={"users": users})


def check_password(password: str) -> str:
    """Give a password that a person has chosen as it is.

    Raises:
        Refusal: it is too short, or cannot be typed everywhere. The text of it is not in the refusal.
    """
    if len(password) < SHORTEST:
        found, remedy = f"a password of {len(password)} characters", "take a longer one; four random words are good"
    # Before it is encoded: bytes that are no UTF-8 come as surrogates, which are not printable and cannot be encoded.
    elif not password.isprintable():
        found, remedy = "a password with characters that have no key", "leave out tabs and control characters"
    elif len(password.encode()) > _LONGEST:
        found, remedy = f"a password of {len(password.encode())} bytes", f"take one of at most {_LONGEST}"
    else:
        return password
    raise Refusal(Kind.BAD_PASSWORD, found, f"at least {SHORTEST} characters that can be typed", remedy)


def generate_password() -> str:
    """Make a password that is easy to read and to type: five groups of four letters, 90 bits."""
    groups = ("".join(secrets.choice(_ALPHABET) for _ in range(_GROUP_LENGTH)) for _ in range(_GROUPS))
    return "-".join(groups)


def hash_password(password: str) -> str:
    """Hash with argon2id at costs that a Raspberry Pi can bear at each login (RFC 9106 §4, second choice)."""
    # Imported here: an apply that makes no password does without the library.
    from argon2 import PasswordHasher

    return PasswordHasher(time_cost=3, memory_cost=65536, parallelism=4).hash(password)


def fits(kept: str, password: str) -> bool:
    """Tell whether a password belongs to a hash of argon2id."""
    # Debian 13's version knows this error by its older name only.
    from argon2 import PasswordHasher
    from argon2.exceptions import Argon2Error, InvalidHash

    try:
        return PasswordHasher().verify(kept, password)
    except (Argon2Error, InvalidHash, UnicodeEncodeError):
        return False
