"""A sender's mail servers that send without pause, and books on what became of every message."""

from __future__ import annotations

import asyncio
import itertools
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

_GREETING_TIMEOUT = 60.0
"""Seconds for a connection and its greeting; RFC 5321 §4.5.3.2.1 grants five minutes, and our patience is less."""

_REPLY_TIMEOUT = 120.0


class Fate(StrEnum):
    """What became of one attempt to hand a message over."""

    ACKNOWLEDGED = "acknowledged"
    """250 after the data: from then on it is the receiver's."""
    DEFERRED = "deferred"
    """4xx: the sender keeps it."""
    REJECTED = "rejected"
    """5xx: the sender's user gets it back."""
    CUT = "cut"
    """The connection broke before the last reply; the sender keeps the message."""
    REFUSED = "refused"
    """There was no connection, or nobody at its end who said a word."""


@dataclass(frozen=True)
class Attempt:
    """One attempt.

    Args:
        identifier: of the message; it is in its subject.
        reply: the last one, or what went wrong.
        seconds: from the first packet to the end.
    """

    identifier: str
    fate: Fate
    reply: str
    seconds: float


@dataclass
class Load:
    """Sessions that send one message each, over and over, until they are told to stop.

    Args:
        host: address of the receiver.
        sources: addresses to send from, in turn.
        sessions: how many at a time.
        size: octets of each message's body, about.
        pause: seconds between two messages of a session.
        name: what the identifiers of its messages begin with.
    """

    host: str
    sender: str
    recipient: str
    port: int = 25
    sources: Sequence[str] = ()
    sessions: int = 4
    size: int = 2000
    pause: float = 0.0
    name: str = field(default_factory=lambda: f"load-{uuid.uuid4().hex[:8]}")
    attempts: list[Attempt] = field(default_factory=list)
    _stopped: bool = False

    def stop(self) -> None:
        """Let every session end by itself; to be called from another thread."""
        self._stopped = True

    def fates(self) -> Counter[Fate]:
        """Count the attempts."""
        return Counter(attempt.fate for attempt in self.attempts)

    def of(self, fate: Fate) -> list[Attempt]:
        """List the attempts with one fate."""
        return [attempt for attempt in self.attempts if attempt.fate is fate]

    def run(self) -> None:
        """Send until `stop`."""
        asyncio.run(self._run())

    async def _run(self) -> None:
        await asyncio.gather(*(self._session(number) for number in range(self.sessions)))

    async def _session(self, number: int) -> None:
        sources = itertools.cycle(self.sources or (None,))
        for count in itertools.count():
            if self._stopped:
                return
            self.attempts.append(await self.send(f"{self.name}-{number}-{count}", next(sources)))
            await asyncio.sleep(self.pause)

    async def send(self, identifier: str, source: str | None = None) -> Attempt:
        """Try to hand one message over."""
        begun = time.monotonic()

        def attempt(fate: Fate, reply: str) -> Attempt:
            return Attempt(identifier, fate, reply, time.monotonic() - begun)

        try:
            local = (source, 0) if source else None
            connection = asyncio.open_connection(self.host, self.port, local_addr=local)
            reader, writer = await asyncio.wait_for(connection, _GREETING_TIMEOUT)
        except (OSError, TimeoutError) as error:
            return attempt(Fate.REFUSED, repr(error))
        try:
            try:
                greeting = await asyncio.wait_for(_reply(reader), _GREETING_TIMEOUT)
            except TimeoutError as error:
                return attempt(Fate.REFUSED, f"no greeting: {error!r}")
            except (OSError, EOFError) as error:
                return attempt(Fate.CUT, f"before the greeting: {error!r}")
            reply = greeting
            try:
                for command in self._commands(identifier):
                    if reply[0] not in "23":
                        break
                    writer.write(command)
                    await writer.drain()
                    reply = await asyncio.wait_for(_reply(reader), _REPLY_TIMEOUT)
            except (OSError, TimeoutError, EOFError) as error:
                return attempt(Fate.CUT, repr(error))
            return attempt({"2": Fate.ACKNOWLEDGED, "4": Fate.DEFERRED}.get(reply[0], Fate.REJECTED), reply)
        finally:
            writer.close()

    def _commands(self, identifier: str) -> Sequence[bytes]:
        lines = "All work and no play makes Jack a dull boy, and this line is as good as any other.\r\n"
        message = (
            f"From: {self.sender}\r\nTo: {self.recipient}\r\nSubject: {identifier}\r\n"
            f"Date: Mon, 23 Nov 2026 12:00:00 +0000\r\nMessage-ID: <{identifier}@load.example.net>\r\n\r\n"
            + lines
            * (self.size // len(lines) + 1)
        )
        return [
            b"EHLO sender.example.net\r\n",
            f"MAIL FROM:<{self.sender}>\r\n".encode(),
            f"RCPT TO:<{self.recipient}>\r\n".encode(),
            b"DATA\r\n",
            message.encode() + b".\r\n",
        ]


async def _reply(reader: asyncio.StreamReader) -> str:
    """Read one reply, of one line or several (RFC 5321 §4.2.1), and give its last line.

    Raises:
        EOFError: the connection was closed.
    """
    while True:
        line = await reader.readline()
        if not line.endswith(b"\n"):
            raise EOFError("the connection was closed")
        if line[3:4] != b"-":
            return line.decode(errors="replace").strip()
