"""The ends of a message's way: who sends it, the mailbox that it comes to, and the store beside the relay."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from unittest import mock

from home.drain_letter import Letter
from model.s3_objects import StoreError
from tests.bucket import Bucket

TAKEN = b"250 2.0.0 Kept"
"""The relay's answer when it has kept a message."""


@dataclass
class Message:
    """What is to be sent.

    Args:
        unclear: attempts whose end went out, and whose answer never came: each may become one more copy (RFC 1047).
    """

    number: int
    octets: bytes
    taken: bool = False
    unclear: int = 0


class Sender:
    """A sender's end of a session: what `converse` takes for a socket."""

    def __init__(self, message: Message, point: Callable[[str], str | None], off: Callable[[], bool]) -> None:
        lines = (
            "EHLO relay\r\nXFORWARD ADDR=192.0.2.25 PORT=4242 HELO=mail.example.net\r\n"
            "MAIL FROM:<bob@example.net>\r\nRCPT TO:<alice@example.com>\r\nDATA\r\n"
        )
        content = message.octets.replace(b"\r\n.", b"\r\n..") + b".\r\n"
        self._pieces = [lines.encode(), *(content[at : at + 65_536] for at in range(0, len(content), 65_536))]
        self._point, self._off = point, off
        self.told = b""
        self.all_sent = False

    def settimeout(self, _seconds: float) -> None:
        """The simulation has no clock for this."""

    def recv(self, _most: int) -> bytes:
        if self._off() or self._point("recv") == "error":
            return b""
        if b"354 " not in self.told and len(self.told.splitlines()) > 12:
            return b""
        if self.all_sent:
            return b""
        piece = self._pieces.pop(0)
        self.all_sent = not self._pieces
        return piece

    def sendall(self, octets: bytes) -> None:
        if self._off() or self._point("send") == "error":
            raise ConnectionResetError("planted")
        self.told += octets


@dataclass
class Mailbox:
    """Home's mail server: what it has taken is durable."""

    copies: Counter[int] = field(default_factory=Counter)
    traces: set[str] = field(default_factory=set)
    damaged: list[int] = field(default_factory=list)

    def take(self, letter: Letter, trace: str, known: Mapping[int, Message]) -> None:
        with letter.open() as file:
            octets = file.read()
        number = int(octets.partition(b"\r\n")[0].removeprefix(b"No: "))
        self.copies[number] += 1
        self.traces.add(trace)
        if octets != known[number].octets:
            self.damaged.append(number)


class ChanceStore(Bucket):
    """A store that fails, or says that it keeps what it does not keep."""

    def __init__(self, happens: Callable[[str, str], str | None]) -> None:
        super().__init__(self._fail)
        self._happens = happens

    def _fail(self, call: str, _name: str) -> None:
        if self._happens("store", call) == "error":
            raise StoreError("planted")

    def put(self, name: str, octets: bytes) -> None:
        swallowed = mock.patch("obstore.put") if self._happens("store", "swallow") == "swallow" else nullcontext()
        with swallowed:
            super().put(name, octets)
