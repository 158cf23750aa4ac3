"""What is kept beside a message until home has it, inside the ciphertext: who sent it, to whom, and from where.

The relay writes it and home reads it. Home knows that anybody can have written it: the key that it is encrypted to is
no secret.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Protocol

_MAGIC = b"DPQ1"
_LENGTH_OCTETS = 4

MOST_RECIPIENTS = 1000
"""Of one message; RFC 5321 §4.5.3.1.8 asks for 100."""

LARGEST = 2 * (MOST_RECIPIENTS + 8) * 4096
"""Octets of an envelope: more than all lines of one session's commands can say (RCPT, MAIL, and what XFORWARD tells),
since JSON at most doubles them."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


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
        spf: what the sender's domain says of the client: `result` (RFC 7208 §2.6), `domain`, and `identity`, which is
            `mailfrom` or `helo`; empty when it was not asked.
        tls: `protocol` and `cipher` of the client's connection; empty when it had none.
    """

    sender: str
    recipients: tuple[tuple[str, Mapping[str, str | None]], ...]
    utf8: bool
    parameters: Mapping[str, str | None]
    client: Mapping[str, str]
    received: int
    spf: Mapping[str, str] = field(default_factory=dict)
    tls: Mapping[str, str] = field(default_factory=dict)

    def octets(self) -> bytes:
        """Write it: four octets that name the format, its length (32 bits, big-endian), and JSON in UTF-8."""
        # asdict() would copy all of it, for each message.
        data = {one.name: getattr(self, one.name) for one in fields(self)}
        text = json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode()
        return _MAGIC + len(text).to_bytes(_LENGTH_OCTETS) + text

    @classmethod
    def read(cls, reader: Reader) -> Envelope:
        """Read one; what comes behind it is the message.

        Raises:
            EnvelopeError: there is none, or one that no session can have had.
        """
        head = _exactly(reader, len(_MAGIC) + _LENGTH_OCTETS)
        length = int.from_bytes(head[len(_MAGIC) :])
        if not head.startswith(_MAGIC) or length > LARGEST:
            raise EnvelopeError(f"found {head!r} in the place of {_MAGIC!r} and a length of at most {LARGEST}")
        try:
            data: dict[str, Any] = json.loads(_exactly(reader, length))
            return cls(
                sender=_text(data["sender"]),
                recipients=_recipients(data["recipients"]),
                utf8=bool(data["utf8"]),
                parameters=_parameters(data["parameters"]),
                client=_texts(data["client"]),
                received=int(data["received"]),
                spf=_texts(data.get("spf", {})),
                tls=_texts(data.get("tls", {})),
            )
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError, OverflowError) as error:
            raise EnvelopeError(f"an envelope that cannot be read: {type(error).__name__}") from None


def _recipients(found: Any) -> tuple[tuple[str, Mapping[str, str | None]], ...]:
    people = tuple((_text(address), _parameters(parameters)) for address, parameters in found)
    if not 0 < len(people) <= MOST_RECIPIENTS or not all(address for address, _ in people):
        raise ValueError
    return people


def _parameters(found: Any) -> Mapping[str, str | None]:
    return {_text(name): None if value is None else _text(value) for name, value in found.items()}


def _texts(found: Any) -> Mapping[str, str]:
    return {_text(name): _text(value) for name, value in found.items()}


def _text(found: Any) -> str:
    """Take a text that may stand in a command of SMTP."""
    if not isinstance(found, str) or _CONTROL.search(found):
        raise ValueError
    found.encode()  # a half of a surrogate pair is no character
    return found


def _exactly(reader: Reader, size: int) -> bytes:
    found = b""
    while len(found) < size:
        piece = reader.read(size - len(found))
        if not piece:
            raise EnvelopeError(f"found an end after {len(found)} octets, expected {size}")
        found += piece
    return found
