"""The control plane: what home says to its relay through the tunnel, and what the relay answers.

It is HTTP/1.1 over TLS 1.3 in which each side knows the other's certificate, to two listeners on the relay's address:
the queue's, which hands over what waits, and the agent's, which takes keys, settings and software. Both ends read these
definitions, so that they import nothing but the standard library.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from typing import Any, Self, TypeVar

PROTOCOL = 1
"""Version of these messages. Home and relay understand each other when theirs differ by one at most."""

QUEUE_PORT = 2600
AGENT_PORT = 2601
"""TCP ports on the relay's IPv6 address in the tunnel."""

SEQUENCE_BLOCK = 1024
"""Sequence numbers of items come without gaps, from 1; after a restart the queue begins with the next such block, and
leaves out what it may have given away of the one before."""

LARGEST_MESSAGE = 256 * 1024
"""Octets of a JSON message; the content of an item and the bundle are none."""

LARGEST_ITEM = 64 * 2**20
"""Octets of an item's ciphertext: the largest message, the largest envelope, and what age adds."""

LATEST = 253_402_300_799_000
"""The end of the year 9999 in milliseconds since 1970: no calendar here goes further."""


class Header(StrEnum):
    """Header fields that go with every request, and with every response."""

    PROTOCOL = "DarkPipe-Protocol"
    """Version that the one who writes this speaks."""

    HOME = "DarkPipe-Home"
    """Home's id: 32 hexadecimal digits, made when home is set up."""

    HOME_EPOCH = "DarkPipe-Home-Epoch"
    """A number that counts up with every restored home; the highest that the relay has seen fences the lower ones."""

    RELAY = "DarkPipe-Relay"
    """The relay's id: 32 hexadecimal digits, made at pairing."""

    QUEUE_EPOCH = "DarkPipe-Queue-Epoch"
    """Of the queue: 32 hexadecimal digits, made with an empty spool. Sequence numbers hold within one only."""


_PLAIN: Mapping[str, tuple[type, ...]] = {
    "str": (str,),
    "int": (int,),
    "bool": (bool,),
    "int | None": (int, type(None)),
}
"""What JSON must give for fields of plain types, by their annotations."""


class ControlError(Exception):
    """A message cannot be understood; the text says what was found."""


@dataclass(frozen=True)
class Message:
    """What is sent as JSON. A field that the reader does not know is read over: the next version may add one."""

    def to_json(self) -> bytes:
        """Write it."""
        return json.dumps(asdict(self), ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode()

    @classmethod
    def read(cls, octets: bytes) -> Self:
        """Read what `to_json` gave.

        Raises:
            ControlError: it is something else.
        """
        try:
            data = json.loads(octets)
        except (ValueError, RecursionError):
            raise ControlError(f"found no JSON in the place of {cls.__name__}") from None
        return cls.of(data)

    @classmethod
    def of(cls, data: Any) -> Self:
        """Take it from what a JSON reader gives.

        Raises:
            ControlError: it is something else.
        """
        if not isinstance(data, dict):
            raise ControlError(f"found no object in the place of {cls.__name__}")
        known = {one.name: str(one.type) for one in fields(cls)}
        given = {name: value for name, value in data.items() if name in known}
        for name, value in given.items():
            # bool is a subclass of int, and no number here.
            if (kinds := _PLAIN.get(known[name])) and type(value) not in kinds:
                raise ControlError(f"{cls.__name__}: {name}: expected {known[name]}")
        try:
            return cls(**given)
        except (TypeError, ValueError) as error:
            raise ControlError(f"{cls.__name__}: {error}") from None


_M = TypeVar("_M", bound=Message)


def _each(kind: type[_M], given: Iterable[Any]) -> Iterator[_M]:
    """Give messages, from messages or from what a JSON reader has made of them."""
    yield from (one if isinstance(one, kind) else kind.of(one) for one in given)


@dataclass(frozen=True)
class Problem(Message):
    """Why a request was refused (status 4xx or 5xx), in a sentence for a person."""

    problem: str


@dataclass(frozen=True)
class QueuedItem(Message):
    """One item of the queue, as the relay knows it: it can read nothing of it.

    Args:
        id: 32 hexadecimal digits, at random; of no other item.
        sequence: place in the order of arrival; never used again within the queue's epoch.
        size: octets of the ciphertext.
        received: when it came, milliseconds since 1970.
        sha256: of the ciphertext, in hexadecimal digits.
    """

    id: str
    sequence: int
    size: int
    received: int
    sha256: str


@dataclass(frozen=True)
class Page(Message):
    """Answer to `GET /items?after=SEQUENCE`: items in the order of arrival, and whether there are more behind them."""

    epoch: str
    items: tuple[QueuedItem, ...]
    more: bool

    def __post_init__(self) -> None:
        items = tuple(_each(QueuedItem, self.items))
        object.__setattr__(self, "items", items)


@dataclass(frozen=True)
class Fault(Message):
    """Something that the relay wants home to know, once for as long as it lasts.

    Args:
        since: milliseconds since 1970.
        found: what is wrong, in a sentence without addresses.
        remedy: what to do.
    """

    since: int
    found: str
    remedy: str


@dataclass(frozen=True)
class BucketStatus(Message):
    """What the queue has in a bucket of S3; home remembers it, and so knows what a dead relay's bucket must have.

    Args:
        folder: 32 hexadecimal digits.
        version: of the latest head there (model/bucket.py).
        written: when that was, milliseconds since 1970.
        octets: of all items there.
    """

    folder: str
    version: int
    written: int
    octets: int


@dataclass(frozen=True)
class QueueStatus(Message):
    """Answer to `GET /status` of the queue.

    Args:
        software: id of the bundle that runs.
        count, octets: of what waits.
        oldest: when the first of it came, milliseconds since 1970; None when nothing waits.
        budget: octets that may wait.
        drained: when home last took something, milliseconds since 1970; None for never.
        recipients: version of the list; 0 for none.
        settings: version of the settings in force.
        overdue: items that are kept beyond their time, since no DSN may or can be sent for them.
        bucket: None without one, or as long as it has not answered.
    """

    protocol: int
    software: str
    epoch: str
    count: int
    octets: int
    oldest: int | None
    budget: int
    drained: int | None
    recipients: int
    settings: int
    overdue: int = 0
    faults: tuple[Fault, ...] = ()
    bucket: BucketStatus | None = None

    def __post_init__(self) -> None:
        faults = tuple(_each(Fault, self.faults))
        object.__setattr__(self, "faults", faults)
        for bucket in _each(BucketStatus, [self.bucket] if self.bucket else []):
            object.__setattr__(self, "bucket", bucket)


@dataclass(frozen=True)
class QueueSettings(Message):
    """How the relay keeps mail: what home pushes to the agent (`PUT /settings`), and the queue reads.

    Args:
        version: counts up with each change.
        name: of the relay in the DNS and in SMTP, of ASCII labels.
        domains: for which it takes mail, in each form that senders may use.
        policy: `queue`, `tempfail` or `reject`.
        keys: home's age recipients (`age1…`), of which any opens an item.
        budget: octets that may wait on the relay's disk.
        expiry: seconds that an item waits before its sender is told.
        largest: octets of a message.
        alarm: how the relay tells out of band that home is away for long: `webhook`, a URL that gets a POST, or
            `mail`, an address at another provider, or both; see relay/alarm.py. Empty for not at all. Secret.
        away: seconds of absence after which it does.
        s3: where items go that the disk has no room for, or all of them; see relay/s3.py. Empty for nowhere. Secret.
    """

    version: int
    name: str
    domains: tuple[str, ...]
    policy: str
    keys: tuple[str, ...]
    budget: int
    expiry: int = 7 * 24 * 3600
    largest: int = 50 * 2**20
    alarm: Mapping[str, Any] = field(default_factory=dict, repr=False)
    away: int = 24 * 3600
    s3: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        for name in ("domains", "keys"):
            value = getattr(self, name)
            if not isinstance(value, list | tuple) or not all(isinstance(one, str) for one in value):
                raise ValueError(f"{name}: expected a list of texts")
            object.__setattr__(self, name, tuple(value))
        for name in ("version", "budget", "expiry", "largest", "away"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                raise ValueError(f"{name}: expected a number")
