"""What DNS is asked for, and what it answers. Checks see this only, so that anything can stand behind it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


class Status(StrEnum):
    """What came of a question."""

    FOUND = "found"
    NO_DATA = "no-data"
    """The name is there and has no such record."""
    NO_NAME = "no-name"
    FAILED = "failed"
    """There is no answer that could be used; `error` says why."""


@dataclass(frozen=True)
class Answer:
    """What was answered.

    Args:
        values: of the records, as `home.dns_records.Record.value` has them, sorted.
        ttl: seconds that the answer may be kept for; of "there is none" as well (RFC 2308 §5).
        alias: where the name leads instead, if it is an alias (CNAME).
    """

    status: Status
    values: tuple[str, ...] = ()
    ttl: int = 0
    alias: str | None = None
    error: str = ""


@dataclass(frozen=True)
class Server:
    """A name server of a zone, with its addresses."""

    name: str
    addresses: tuple[str, ...]


@dataclass(frozen=True)
class Authority:
    """Who answers for a name.

    Args:
        zone: that the name lies in, without a dot at the end; empty for the root.
        servers: of the zone; those whose addresses cannot be found are there without any.
        error: why nothing of this is known; empty otherwise.
    """

    zone: str = ""
    servers: tuple[Server, ...] = ()
    error: str = ""


class Dns(Protocol):
    """Who can be asked."""

    def resolve(self, name: str, kind: str) -> Answer:
        """Ask the resolver; aliases are followed."""

    def authority(self, name: str) -> Authority:
        """Find the zone of a name and its servers, through the resolver, whether its DNSSEC is valid or not."""

    def ask(self, server: Server, name: str, kind: str) -> Answer:
        """Ask a name server what it has itself; aliases are named and not followed."""
