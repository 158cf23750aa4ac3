"""For whom the relay takes mail: a list that home pushes, from which nobody reads the addresses.

Addresses are in it as scrypt hashes (RFC 7914) under a salt of their own: whoever steals the list can try out one guess
after the other, at a price for each, and cannot have them all at once.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Self

from relay.smtp import Reply

_COST, _BLOCK, _OCTETS = 2**13, 8, 16
"""scrypt's N and r: 8 MiB and some 20 ms of a processor for each address that somebody asks for."""

_REMEMBERED = 4096
"""Answers; each asked address costs once."""

_TAKEN = Reply(250, "2.1.5 Ok")
_UNKNOWN = Reply(550, "5.1.1 There is no such mailbox here")
_NO_LIST = Reply(450, "4.3.2 The recipients are not known yet, please try again later")
_ELSEWHERE = Reply(554, "5.7.1 Relay access denied")


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
        hashes = frozenset(_hash(_fold(address), salt) for address in addresses)
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


class Recipients:
    """Answers RCPT.

    Args:
        known: the list; None before home has pushed one.
    """

    def __init__(self, known: RecipientList | None = None) -> None:
        self._known = known
        self._lock = threading.Lock()
        self._costly = threading.Lock()
        self._remembered: OrderedDict[str, bool] = OrderedDict()

    @property
    def version(self) -> int:
        """Of the list; 0 when there is none."""
        return self._known.version if self._known else 0

    def replace(self, known: RecipientList) -> bool:
        """Take another list; an older one, or the same, is not taken.

        Returns:
            Whether it was taken.
        """
        with self._lock:
            if known.version <= self.version:
                return False
            self._known = known
            self._remembered.clear()
            return True

    def judge(self, address: str) -> Reply:
        """Say whether mail is taken for an address."""
        with self._lock:
            known = self._known
        if known is None:
            return _NO_LIST
        folded = _fold(address)
        local, _, domain = folded.rpartition("@")
        rule = known.domains.get(domain)
        if not local or rule is None:
            return _ELSEWHERE
        if rule.catch_all or self._is_known(folded, known):
            return _TAKEN
        base, separator, _ = local.partition(rule.separator) if rule.separator else (local, "", "")
        return _TAKEN if separator and base and self._is_known(f"{base}@{domain}", known) else _UNKNOWN

    def _is_known(self, folded: str, known: RecipientList) -> bool:
        with self._lock:
            if known is self._known and (answer := self._remembered.get(folded)) is not None:
                self._remembered.move_to_end(folded)
                return answer
        with self._costly:  # a crowd that guesses does not take all of the memory
            answer = _hash(folded, known.salt) in known.hashes
        with self._lock:
            if known is self._known:
                self._remembered[folded] = answer
                if len(self._remembered) > _REMEMBERED:
                    self._remembered.popitem(last=False)
        return answer


def _fold(address: str) -> str:
    """Write an address as home compares it: without regard to case, as Postfix folds it, and to needless quotes."""
    local, _, domain = address.rpartition("@")
    if len(local) > 1 and local.startswith('"') and local.endswith('"') and "\\" not in local:
        local = local[1:-1]
    return f"{local.casefold()}@{domain.lower().rstrip('.')}"


def _hash(folded: str, salt: bytes) -> bytes:
    return hashlib.scrypt(folded.encode(), salt=salt, n=_COST, r=_BLOCK, p=1, dklen=_OCTETS)
