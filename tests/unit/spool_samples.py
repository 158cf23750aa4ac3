"""What the tests of the relay's spool store: a message from somebody whose words are found wherever they show."""

from __future__ import annotations

import pyrage

from relay.envelope import envelope_of
from relay.smtp import Mail, Recipient

HOME, PAPER = (pyrage.x25519.Identity.generate() for _ in range(2))
KEYS = [str(HOME.to_public()), str(PAPER.to_public())]
CANARIES = (b"canary-sender", b"canary-recipient", b"canary-subject", b"192.0.2.77")
_MAIL = Mail("canary-sender@example.net", 100, utf8=True, parameters={"RET": None}, client={"ADDR": "192.0.2.77"})
ENVELOPE = envelope_of(_MAIL, [Recipient("canary-recipient@bücher.example", {"NOTIFY": "NEVER"})], 1_795_478_400_000)
MESSAGE = b"Subject: canary-subject\r\n\r\n" + b"\0\xff\n" * 50_000


class Stream:
    """A message of many octets that never lie in memory at once."""

    def __init__(self, size: int, failure: Exception | None = None) -> None:
        self._left, self._failure = size, failure
        self.largest = 0

    def read(self, size: int, /) -> bytes:
        self.largest = max(self.largest, size)
        if not self._left and self._failure:
            raise self._failure
        piece = b"x" * min(size, self._left)
        self._left -= len(piece)
        return piece
