"""What the relay seals: an envelope, of what the client has said, and the message as it comes in."""

from __future__ import annotations

from dataclasses import dataclass, field

from model.envelope import Envelope, Reader
from relay.smtp import Mail, Recipient


def envelope_of(mail: Mail, recipients: list[Recipient], received: int) -> Envelope:
    """Make an envelope of what the client has said.

    Args:
        received: when the message came, in milliseconds since 1970.
    """
    people = tuple((one.address, dict(one.parameters)) for one in recipients)
    return Envelope(mail.sender, people, mail.utf8, dict(mail.parameters), dict(mail.client), received)


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
