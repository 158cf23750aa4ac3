"""For whom the relay takes mail: a list that home pushes, from which nobody reads the addresses.

Addresses are in it as scrypt hashes (RFC 7914) under a salt of their own: whoever steals the list can try out one guess
after the other, at a price for each, and cannot have them all at once.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Self

_COST, _BLOCK, _OCTETS = 2**13, 8, 16
"""scrypt's N and r: 8 MiB and some 20 ms of a processor for each address that somebody asks for."""


class ListError(Exception):
    """A list cannot be read; the text says what was found."""


@dataclass(frozen=True)
class DomainRule:
    """What holds for all addresses of a domain.

    Args:
        catch_all: whether there is mail for every local part.
        separator: character behind which the local part goes on as its owner likes (`alice+shop`); empty for none.
    """

    catch_all: bool = False
    separator: str = ""


@dataclass(frozen=True)
class RecipientList:
    """The recipients of one home.

    Args:
        version: counts up with each change.
        domains: by their names, in lower case and in each form that senders may use (A-labels and U-labels).
        salt: of the hashes.
        hashes: of all addresses.
    """

    version: int
    domains: Mapping[str, DomainRule]
    salt: bytes = field(repr=False)
    hashes: frozenset[bytes] = field(repr=False)

    @classmethod
    def make(cls, version: int, domains: Mapping[str, DomainRule], addresses: Iterable[str]) -> Self:
        """Make a list with a new salt.

        Args:
            addresses: each in every form of its domain that senders may use.
        """
        salt = secrets.token_bytes(16)
        hashes = frozenset(hash_address(fold_address(address), salt) for address in addresses)
        return cls(version, {name.lower(): rule for name, rule in domains.items()}, salt, hashes)

    def text(self) -> str:
        """Write it as JSON."""
        rules = {
            name: {"catch_all": rule.catch_all, "separator": rule.separator}
            for name, rule in sorted(self.domains.items())
        }
        hashes = sorted(one.hex() for one in self.hashes)
        return json.dumps({"version": self.version, "domains": rules, "salt": self.salt.hex(), "hashes": hashes})

    @classmethod
    def read(cls, text: str) -> Self:
        """Read what `text` gave.

        Raises:
            ListError: it is something else.
        """
        try:
            data = json.loads(text)
            rules = {str(name): DomainRule(**rule) for name, rule in data["domains"].items()}
            hashes = frozenset(bytes.fromhex(one) for one in data["hashes"])
            read = cls(int(data["version"]), rules, bytes.fromhex(data["salt"]), hashes)
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise ListError(f"a list of recipients that cannot be read: {type(error).__name__}") from None
        if not all(len(one) == _OCTETS for one in hashes) or not rules:
            raise ListError("a list of recipients without domains, or with hashes of another kind")
        return read


def fold_address(address: str) -> str:
    """Write an address as home compares it: without regard to case, as Postfix folds it, and to needless quotes."""
    local, _, domain = address.rpartition("@")
    if len(local) > 1 and local.startswith('"') and local.endswith('"') and "\\" not in local:
        local = local[1:-1]
    return f"{local.casefold()}@{domain.lower().rstrip('.')}"


def hash_address(folded: str, salt: bytes) -> bytes:
    """Hash an address that `fold_address` has given."""
    return hashlib.scrypt(folded.encode(), salt=salt, n=_COST, r=_BLOCK, p=1, dklen=_OCTETS)
