"""What is kept beside a message until home has it, inside the ciphertext: who sent it, to whom, and from where."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from relay.commands import FORWARDED
from relay.smtp import LONGEST_LINE, MOST_RECIPIENTS, Mail, Recipient

_MAGIC = b"DPQ1"
_LENGTH_OCTETS = 4

LARGEST = 2 * (MOST_RECIPIENTS + len(FORWARDED) + 1) * LONGEST_LINE
"""Octets of an envelope: more than all lines of one session's commands can say, since JSON at most doubles them."""


class EnvelopeError(Exception):
    """These octets do not begin with an envelope; the text says what was found."""


class Reader(Protocol):
    """Gives octets."""

    def read(self, size: int, /) -> bytes:
        """Give at most so many octets; none at the end."""
        ...


@dataclass(frozen=True)
class Envelope:
    """The envelope of one message.

    Args:
        sender: empty for the null sender.
        recipients: addresses with their parameters of DSN.
        utf8: whether the sender has said SMTPUTF8.
        parameters: of DSN, from MAIL.
        client: what is known of the client, such as ADDR, PORT and HELO.
        received: when the message came, in milliseconds since 1970.
    """

    sender: str
    recipients: tuple[tuple[str, Mapping[str, str | None]], ...]
    utf8: bool
    parameters: Mapping[str, str | None]
    client: Mapping[str, str]
    received: int

    @classmethod
    def of(cls, mail: Mail, recipients: list[Recipient], received: int) -> Envelope:
        """Make one of what the client has said."""
        people = tuple((one.address, dict(one.parameters)) for one in recipients)
        return cls(mail.sender, people, mail.utf8, dict(mail.parameters), dict(mail.client), received)

    def octets(self) -> bytes:
        """Write it: four octets that name the format, its length (32 bits, big-endian), and JSON in UTF-8."""
        text = json.dumps(asdict(self), ensure_ascii=False, separators=(",", ":")).encode()
        return _MAGIC + len(text).to_bytes(_LENGTH_OCTETS) + text

    @classmethod
    def read(cls, reader: Reader) -> Envelope:
        """Read one; what comes behind it is the message.

        Raises:
            EnvelopeError: there is none.
        """
        head = _exactly(reader, len(_MAGIC) + _LENGTH_OCTETS)
        length = int.from_bytes(head[len(_MAGIC) :])
        if not head.startswith(_MAGIC) or length > LARGEST:
            raise EnvelopeError(f"found {head!r} in the place of {_MAGIC!r} and a length of at most {LARGEST}")
        try:
            data: dict[str, Any] = json.loads(_exactly(reader, length))
            data["recipients"] = tuple((address, parameters) for address, parameters in data["recipients"])
            return cls(**data)
        except (ValueError, LookupError, TypeError) as error:
            raise EnvelopeError(f"an envelope that cannot be read: {type(error).__name__}") from None


def _exactly(reader: Reader, size: int) -> bytes:
    found = b""
    while len(found) < size:
        piece = reader.read(size - len(found))
        if not piece:
            raise EnvelopeError(f"found an end after {len(found)} octets, expected {size}")
        found += piece
    return found


@dataclass
class Item:
    """What is sealed: an envelope, and behind it the message as it comes in.

    Args:
        envelope: of the message.
        message: gives its octets.
    """

    envelope: Envelope
    message: Reader
    _head: bytes = field(init=False)

    def __post_init__(self) -> None:
        self._head = self.envelope.octets()

    def read(self, size: int, /) -> bytes:
        """Give at most so many octets; none at the end."""
        if self._head:
            piece, self._head = self._head[:size], self._head[size:]
            return piece
        return self.message.read(size)
