"""Taking messages while home is away: one session's events, and what the spool says to them."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import StrEnum

from model.control import QueuedItem
from model.envelope import Envelope
from relay.envelope import envelope_of
from relay.header import END_OF_HEADER, message_id_of, tls_of
from relay.sender_policy import Asked, SenderPolicy
from relay.smtp import Data, End, Event, Mail, Piece, Quit, Recipient, Reply, Reset, Session
from relay.spool import Room, Spool, SpoolError, SpoolFullError

PATIENCE = 300.0
"""Seconds for a client to say something, and to take an answer (RFC 5321 §4.5.3.2.7)."""

_STEP = 1024 * 1024
"""Octets by which the room for a message grows that is larger than was said."""

OVERRUN = 32 * 1024
"""Octets that room is asked for in advance."""

_CHUNK = 64 * 1024

_OK = Reply(250, "2.1.0 Ok")
_NO_ROOM = Reply(452, "4.3.1 There is no room for it now, please try again later")
_NO_DISK = Reply(451, "4.3.0 It cannot be kept now, please try again later")
_TOO_LARGE = Reply(552, "5.3.4 The message is too large")
_KEPT = Reply(250, "2.0.0 Kept until the recipient is back")

_LATER = Reply(451, "4.3.2 Home is away, please try again later")
_NEVER = Reply(550, "5.3.2 Home is away, and mail for it is not kept")

Judge = Callable[[str], Reply]
"""Tells whether mail is taken for an address: the answer to RCPT."""


Kept = Callable[[QueuedItem, Envelope, str], None]
"""Is told of an item: with its envelope and its Message-ID. It raises nothing."""


class _TooLargeError(Exception):
    """A message has more octets than any may have."""


class Policy(StrEnum):
    """What becomes of mail while home is away; the site says which."""

    QUEUE = "queue"
    """It is kept."""
    TEMPFAIL = "tempfail"
    """Its senders are asked to come again, and nothing is stored."""
    REJECT = "reject"
    """It is refused for good."""


_INSTEAD = {Policy.TEMPFAIL: _LATER, Policy.REJECT: _NEVER}


@dataclass(frozen=True)
class Terms:
    """On which terms messages are taken.

    Args:
        name: of the relay.
        largest: message, in octets.
        judge: of recipients.
        policy: for those that are known.
        sender_policy: asks the sender's domain about the client.
        kept: is told of each item that was taken.
    """

    name: str
    largest: int
    judge: Judge
    policy: Policy = Policy.QUEUE
    sender_policy: SenderPolicy | None = None
    kept: Kept = lambda _item, _envelope, _message_id: None

    def answer(self, address: str) -> Reply:
        """Give the answer to RCPT."""
        reply = self.judge(address)
        return _INSTEAD.get(self.policy, reply) if reply.code < 300 else reply


def converse(connection: socket.socket, terms: Terms, spool: Spool, now: Callable[[], float] = time.time) -> None:
    """Serve one client until it goes; what it has not finished by then is forgotten.

    Args:
        connection: it stays open.
        now: seconds since 1970.
    """
    connection.settimeout(PATIENCE)
    with suppress(OSError):
        _Reception(connection, terms, spool, now).serve()


class _Reception:
    def __init__(self, connection: socket.socket, terms: Terms, spool: Spool, now: Callable[[], float]) -> None:
        self._connection, self._terms, self._spool, self._now = connection, terms, spool, now
        self._session = Session(terms.name, terms.largest)
        self._mail: Mail | None = None
        self._recipients: list[Recipient] = []
        self._asked: Asked | None = None

    def serve(self) -> None:
        while event := self._next_event():
            self._do(event)
        self._send()

    def _next_event(self) -> Event | None:
        """Give the next event; None when the client has gone, or the session is over."""
        while not (event := self._session.next_event()):
            self._send()
            if self._session.over or not (data := self._connection.recv(_CHUNK)):
                return None
            self._session.feed(data)
        return event

    def _send(self) -> None:
        if output := self._session.take_output():
            self._connection.sendall(output)

    def _do(self, event: Event) -> None:
        match event:
            case Mail():
                self._begin(event)
            case Recipient():
                reply = self._terms.answer(event.address)
                if reply.code < 300:
                    self._recipients.append(event)
                    self._ask_sender_policy()
                self._session.answer(reply)
            case Data():
                self._session.answer(self._take())
            case Reset() | Quit():
                self._mail, self._recipients, self._asked = None, [], None
            case Piece() | End():
                raise AssertionError(f"{type(event).__name__} outside of a message")

    def _begin(self, mail: Mail) -> None:
        if self._terms.policy is not Policy.QUEUE:
            self._mail, self._recipients = mail, []
            self._session.answer(_OK)
            return
        try:
            # Nobody shall send 25 MB to hear that there is no room.
            with self._spool.room(mail.size or 0, said=mail.size is not None):
                self._mail, self._recipients = mail, []
                self._session.answer(_OK)
        except SpoolFullError:
            self._session.answer(_NO_ROOM)
        except SpoolError:
            self._session.answer(_NO_DISK)

    def _ask_sender_policy(self) -> None:
        """Ask once for a message, and while its other recipients and its content are still to come."""
        if self._mail and self._terms.sender_policy and self._terms.policy is Policy.QUEUE and not self._asked:
            self._asked = self._terms.sender_policy.ask(self._mail)

    def _take(self) -> Reply:
        """Take a message from DATA to its end; gives the last answer, which was not sent yet."""
        assert self._mail is not None, "DATA comes after MAIL"
        envelope = envelope_of(self._mail, self._recipients, int(self._now() * 1000))
        try:
            head = len(envelope.octets())
            size = self._mail.size
            with self._spool.room(head + (size or 0), said=size is not None) as room:
                spf = self._asked.result() if self._asked else {}
                self._session.answer(Reply(354, "End with CRLF, dot, CRLF"))
                message = _Message(self._next_event, room, self._terms.largest, head)
                reply = self._store(replace(envelope, spf=spf), message, room)
        except SpoolFullError:
            return _NO_ROOM
        except SpoolError:
            return _NO_DISK
        self._mail, self._recipients, self._asked = None, [], None
        return reply

    def _store(self, envelope: Envelope, message: _Message, room: Room) -> Reply:
        try:
            top = message.peek()
            envelope = replace(envelope, tls=tls_of(top))
            stored = self._spool.store(envelope, message, room)
        except SpoolFullError:
            reply = _NO_ROOM
        except SpoolError:
            reply = _NO_DISK
        except _TooLargeError:
            reply = _TOO_LARGE
        else:
            self._terms.kept(stored, envelope, message_id_of(top))
            return _KEPT
        # A client hears no answer before it has sent everything.
        message.skip()
        return reply


class _Message:
    """The content of a message as it comes in.

    Args:
        next_event: gives the session's events.
        room: that is kept for it; it grows with the message.
        largest: octets.
        head: octets of the envelope, which is kept in front of it.
    """

    def __init__(self, next_event: Callable[[], Event | None], room: Room, largest: int, head: int) -> None:
        self._next_event, self._room, self._largest, self._head = next_event, room, largest, head
        self._held = b""
        self._taken = 0
        self._ended = False

    def read(self, size: int, /) -> bytes:
        """Give at most so many octets; none at the end.

        Raises:
            ConnectionError: the client has gone before the end.
            SpoolFullError, _TooLargeError: it has more octets than there is room for, or than any may have.
        """
        if not self._held:
            self._held = self._more()
        piece, self._held = self._held[:size], self._held[size:]
        return piece

    def peek(self) -> bytes:
        """Give the message's header, or what comes of it first, which stays to be read.

        Raises:
            As `read`.
        """
        while END_OF_HEADER not in self._held and len(self._held) < _CHUNK and (more := self._more()):
            self._held += more
        return self._held

    def _more(self) -> bytes:
        piece = self._next_piece()
        self._taken += len(piece)
        if self._taken > self._largest:
            raise _TooLargeError
        needed = self._head + self._taken
        if needed + OVERRUN > self._room.octets:
            self._room.grow_to(needed + _STEP)
        return piece

    def skip(self) -> None:
        """Read over the rest.

        Raises:
            ConnectionError: the client has gone before the end.
        """
        while self._next_piece():
            pass

    def _next_piece(self) -> bytes:
        if self._ended:
            return b""
        event = self._next_event()
        if isinstance(event, Piece):
            return event.octets
        if event is None:
            raise ConnectionAbortedError("the client has gone in the middle of a message")
        self._ended = True
        return b""
