"""The recovery secret: made once on the device, shown once, written down by its owner; nothing here keeps it.

It is the way back when a passphrase is forgotten or a device has died. From it derive a key for each purpose (HKDF,
RFC 5869): one tells nothing about another.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from firstboot.bech32 import encode

_SECRET_BYTES = 16
_SUM_BYTES = 4
_GROUP_LENGTH = 4
GROUPS = 8
"""Groups of characters that the written form has."""

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
"""Base32 without the letters that look like digits (Douglas Crockford's, www.crockford.com/base32.html)."""
_READ_AS = str.maketrans("OIL", "011")
_BETWEEN = re.compile(r"[^0-9A-Za-z]+")


class RecoveryError(ValueError):
    """What was typed is no recovery secret; the text says why, without repeating it."""


class Purpose(StrEnum):
    """What a key is derived for; the words are part of the derivation and never change."""

    DISK = "darkpipe recovery 1: data disk"
    QUEUE = "darkpipe recovery 1: age X25519 identity"
    BACKUP = "darkpipe recovery 1: backup"


@dataclass(frozen=True)
class RecoverySecret:
    """16 random bytes: 128 bits, which nobody can try out, so that no derivation has to be slow."""

    _secret: bytes

    def __repr__(self) -> str:
        return "RecoverySecret(…)"

    @property
    def groups(self) -> tuple[str, ...]:
        """Give the written form: 8 groups of 4 characters, the last 32 bits of it a checksum."""
        number = int.from_bytes(self._secret + _checksum(self._secret))
        length = GROUPS * _GROUP_LENGTH
        text = "".join(_ALPHABET[number >> 5 * (length - 1 - place) & 31] for place in range(length))
        return tuple(text[start : start + _GROUP_LENGTH] for start in range(0, length, _GROUP_LENGTH))

    def __str__(self) -> str:
        return "-".join(self.groups)

    def derive(self, purpose: Purpose) -> bytes:
        """Derive a key of 32 bytes."""
        return HKDF(hashes.SHA256(), 32, salt=None, info=purpose.encode()).derive(self._secret)

    @property
    def disk_key(self) -> bytes:
        """Give the passphrase of the data disk's recovery slot: 64 hexadecimal digits."""
        return self.derive(Purpose.DISK).hex().encode()

    @property
    def identity(self) -> str:
        """Give the age identity that opens what waits on the relay when the home device has died (age's README)."""
        return encode("age-secret-key-", self.derive(Purpose.QUEUE)).upper()

    @property
    def recipient(self) -> str:
        """Give the public half of the identity, to which the relay encrypts."""
        public = X25519PrivateKey.from_private_bytes(self.derive(Purpose.QUEUE)).public_key()
        return encode("age", public.public_bytes_raw())

    @property
    def backup_key(self) -> str:
        """Give the key of backups: 64 hexadecimal digits."""
        return self.derive(Purpose.BACKUP).hex()


def make_secret(random: Callable[[int], bytes] = secrets.token_bytes) -> RecoverySecret:
    """Make a new one from the kernel's random numbers."""
    return RecoverySecret(random(_SECRET_BYTES))


def parse_secret(text: str) -> RecoverySecret:
    """Read the written form, however it is spaced, in capitals or not, with O for 0 and I or L for 1.

    Raises:
        RecoveryError: it is not of this form, or a character is wrong.
    """
    typed = _BETWEEN.sub("", text).upper().translate(_READ_AS)
    length = GROUPS * _GROUP_LENGTH
    if len(typed) != length:
        raise RecoveryError(f"it has {len(typed)} characters; a recovery secret has {GROUPS} groups of {_GROUP_LENGTH}")
    if set(typed) - set(_ALPHABET):
        raise RecoveryError("it has a character that no recovery secret has")
    number = 0
    for character in typed:
        number = number << 5 | _ALPHABET.index(character)
    content = number.to_bytes(_SECRET_BYTES + _SUM_BYTES)
    secret = content[:_SECRET_BYTES]
    if _checksum(secret) != content[_SECRET_BYTES:]:
        raise RecoveryError("its checksum is wrong: at least one character is not as it was written down")
    return RecoverySecret(secret)


def ask_for(count: int = 2, rng: secrets.SystemRandom | None = None) -> tuple[int, ...]:
    """Choose which groups are to be typed back; they are counted from 1."""
    return tuple(sorted((rng or secrets.SystemRandom()).sample(range(1, GROUPS + 1), count)))


def is_typed_back(secret: RecoverySecret, asked: Sequence[int], typed: Sequence[str]) -> bool:
    """Tell whether groups that were typed are those that were asked for."""
    read = [_BETWEEN.sub("", group).upper().translate(_READ_AS) for group in typed]
    return read == [secret.groups[number - 1] for number in asked]


def _checksum(secret: bytes) -> bytes:
    return hashlib.sha256(b"darkpipe recovery 1" + secret).digest()[:_SUM_BYTES]
