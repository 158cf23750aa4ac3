"""Taking messages while home is away: one session's events, and what the spool says to them."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from enum import StrEnum

from model.control import QueuedItem
from model.envelope import Envelope
from relay.envelope import envelope_of
from relay.header import END_OF_HEADER, message_id_of, tls_of
from relay.room import Room, SpoolFullError
from relay.sender_policy import Asked, SenderPolicy
from relay.smtp import Data, End, Event, Mail, Piece, Quit, Recipient, Reply, Reset, Session
from relay.spool import Spool, SpoolError

PATIENCE = 300.0
"""Seconds for a client to say something, and to take an answer (RFC 5321 §4.5.3.2.7)."""

_STEP = 1024 * 1024
"""Octets by which the room for a message grows that is larger than was said."""

OVERRUN = 32 * 1024
"""Octets that room is asked for in advance."""

CHUNK = 32 * 1024
"""Octets that are read at once."""

_HEADER = 64 * 1024
"""Octets of a message in which its header is looked for."""

_OK = Reply(250, "2.1.0 Ok")
_NO_ROOM = Reply(452, "4.3.1 There is no room for it now, please try again later")
_NO_DISK = Reply(451, "4.3.0 It cannot be kept now, please try again later")
_TOO_LARGE = Reply(552, "5.3.4 The message is too large")
KEPT = Reply(250, "2.0.0 Kept until the recipient is back")
"""The answer that acknowledges a message."""

_LATER = Reply(451, "4.3.2 Home is away, please try again later")
_NEVER = Reply(550, "5.3.2 Home is away, and mail for it is not kept")

Judge = Callable[[str], Reply]
"""Tells whether mail is taken for an address: the answer to RCPT."""


Kept = Callable[[QueuedItem, Envelope, str], None]
"""Is told of an item: with its envelope and its Message-ID. It raises nothing."""


class TooLargeError(Exception):
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
        is_quick: tells whether the judge knows an address at once.
    """

    name: str
    largest: int
    judge: Judge
    policy: Policy = Policy.QUEUE
    sender_policy: SenderPolicy | None = None
    kept: Kept = lambda _item, _envelope, _message_id: None
    is_quick: Callable[[str], bool] = lambda _: True

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
    serve(Reception(connection, terms, spool, now))


def serve(reception: Reception, message: Incoming | None = None, event: Event | None = None) -> None:
    """Serve a client, who may have begun already, until it goes.

    Args:
        message: that is on its way, if one is.
        event: that is to be done first, if one is.
    """
    reception.connection.settimeout(PATIENCE)
    with suppress(OSError):
        if event:
            reception.do(event)
        if message:
            reception.take_rest(message)
        reception.serve()


class Reception:
    """One client's session.

    Args:
        connection: it stays open.
        now: seconds since 1970.
    """

    def __init__(self, connection: socket.socket, terms: Terms, spool: Spool, now: Callable[[], float]) -> None:
        self.connection, self._terms, self._spool, self._now = connection, terms, spool, now
        self.session = Session(terms.name, terms.largest)
        self._mail: Mail | None = None
        self._recipients: list[Recipient] = []
        self._asked: Asked | None = None

    def serve(self) -> None:
        """Serve it until it goes.

        Raises:
            OSError: it has gone in the middle.
        """
        while event := self._next_event():
            if isinstance(event, Data):
                if message := self.begin_message():
                    self.take_rest(message)
            else:
                self.do(event)
        self._send()

    def _next_event(self) -> Event | None:
        """Give the next event; None when the client has gone, or the session is over."""
        while not (event := self.session.next_event()):
            self._send()
            if self.session.over or not (data := self.connection.recv(CHUNK)):
                return None
            self.session.feed(data)
        return event

    def _send(self) -> None:
        if output := self.session.take_output():
            self.connection.sendall(output)

    def is_quick(self, event: Event) -> bool:
        """Whether `do` keeps nobody waiting."""
        return not isinstance(event, Recipient) or self._terms.is_quick(event.address)

    def do(self, event: Event) -> None:
        """Do what an event asks for, but for a message's content."""
        match event:
            case Mail():
                self._begin(event)
            case Recipient():
                reply = self._terms.answer(event.address)
                if reply.code < 300:
                    self._recipients.append(event)
                    self._ask_sender_policy()
                self.session.answer(reply)
            case Reset() | Quit():
                self._mail, self._recipients, self._asked = None, [], None
            case Data() | Piece() | End():
                raise AssertionError(f"{type(event).__name__} is not for here")

    def _begin(self, mail: Mail) -> None:
        if self._terms.policy is not Policy.QUEUE:
            self._mail, self._recipients = mail, []
            self.session.answer(_OK)
            return
        try:
            # Nobody shall send 25 MB to hear that there is no room.
            with self._spool.room(mail.size or 0, said=mail.size is not None):
                self._mail, self._recipients = mail, []
                self.session.answer(_OK)
        except SpoolFullError:
            self.session.answer(_NO_ROOM)
        except SpoolError:
            self.session.answer(_NO_DISK)

    def _ask_sender_policy(self) -> None:
        """Ask once for a message, and while its other recipients and its content are still to come."""
        if self._mail and self._terms.sender_policy and self._terms.policy is Policy.QUEUE and not self._asked:
            self._asked = self._terms.sender_policy.ask(self._mail)

    def begin_message(self) -> Incoming | None:
        """Answer DATA; gives the message that comes then, if one does. Whoever gets it closes it."""
        assert self._mail is not None, "DATA comes after MAIL"
        envelope = envelope_of(self._mail, self._recipients, int(self._now() * 1000))
        head, size = len(envelope.octets()), self._mail.size
        kept = ExitStack()
        try:
            room = kept.enter_context(self._spool.room(head + (size or 0), said=size is not None))
        except SpoolFullError:
            self.session.answer(_NO_ROOM)
        except SpoolError:
            self.session.answer(_NO_DISK)
        else:
            asked, self._asked = self._asked, None
            self._mail, self._recipients = None, []
            self.session.answer(Reply(354, "End with CRLF, dot, CRLF"))
            return Incoming(envelope, asked, room, kept, self._next_event, self._terms.largest, head)
        return None

    def take_rest(self, message: Incoming) -> None:
        """Read a message to its end, keep it and answer.

        Raises:
            OSError: the client has gone.
        """
        with message.kept:
            try:
                top = message.peek()
                envelope = message.envelope(top)
                stored = self._spool.store(envelope, message, message.room)
            except (SpoolFullError, SpoolError, TooLargeError) as error:
                # A client hears no answer before it has sent everything.
                message.skip()
                self.session.answer(refusal(error))
            else:
                self.session.answer(self.keep(stored, envelope, top))

    def keep(self, stored: QueuedItem, envelope: Envelope, top: bytes) -> Reply:
        """Note a message that is there to stay; gives the answer that acknowledges it.

        Args:
            top: of the message.
        """
        self._terms.kept(stored, envelope, message_id_of(top))
        return KEPT


def refusal(error: Exception) -> Reply:
    """Say why a message is not kept."""
    match error:
        case SpoolFullError():
            return _NO_ROOM
        case TooLargeError():
            return _TOO_LARGE
        case _:
            return _NO_DISK


class Incoming:
    """A message as it comes in.

    Args:
        envelope: without what its content tells.
        asked: what the sender's domain is asked.
        room: that is kept for it; it grows with the message.
        kept: gives the room back.
        next_event: gives the session's events, and waits for them.
        largest: octets.
        head: octets of the envelope, which is kept in front of it.
    """

    def __init__(
        self,
        envelope: Envelope,
        asked: Asked | None,
        room: Room,
        kept: ExitStack,
        next_event: Callable[[], Event | None],
        largest: int,
        head: int,
    ) -> None:
        self._envelope, self.asked, self.room, self.kept = envelope, asked, room, kept
        self._next_event, self._largest, self._head = next_event, largest, head
        self.held = b""
        """What has come, and was not read."""
        self.ended = False
        self._taken = 0

    def envelope(self, top: bytes) -> Envelope:
        """Give its envelope, and wait for what the sender's domain says.

        Args:
            top: of the message.
        """
        return replace(self._envelope, spf=self.asked.result() if self.asked else {}, tls=tls_of(top))

    def read(self, size: int, /) -> bytes:
        """Give at most so many octets; none at the end.

        Raises:
            ConnectionError: the client has gone before the end.
            SpoolFullError, TooLargeError: it has more octets than there is room for, or than any may have.
        """
        if not self.held:
            self.held = self._more()
        piece, self.held = self.held[:size], self.held[size:]
        return piece

    def peek(self) -> bytes:
        """Give the message's header, or what comes of it first, which stays to be read.

        Raises:
            As `read`.
        """
        while END_OF_HEADER not in self.held and len(self.held) < _HEADER and (more := self._more()):
            self.held += more
        return self.held

    def _more(self) -> bytes:
        piece = self._next_piece()
        self.count(piece)
        return piece

    def count(self, piece: bytes) -> None:
        """Keep room for one more piece.

        Raises:
            SpoolFullError, TooLargeError: see `read`.
        """
        self._taken += len(piece)
        if self._taken > self._largest:
            raise TooLargeError
        needed = self._head + self._taken
        if needed + OVERRUN > self.room.octets:
            self.room.grow_to(needed + _STEP)

    def skip(self) -> None:
        """Read over the rest.

        Raises:
            ConnectionError: the client has gone before the end.
        """
        while self._next_piece():
            pass

    def _next_piece(self) -> bytes:
        if self.ended:
            return b""
        event = self._next_event()
        if isinstance(event, Piece):
            return event.octets
        if event is None:
            raise ConnectionAbortedError("the client has gone in the middle of a message")
        self.ended = True
        return b""
