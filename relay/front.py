"""The queue's door to Postfix: a thread for all who are quick, one that keeps their messages, and one for each other.

Messages that have come whole while the disk was busy are kept together: they share the calls that wait for it, and few
threads wait for each other. Whoever would keep the others waiting gets a thread of his own (`serve` in
relay/reception.py): with a large message, with one whose sender's domain has not answered yet, with a recipient whom
nobody has asked for lately, or with a place besides the disk.
"""

from __future__ import annotations

import selectors
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field

from model.control import QueuedItem
from model.envelope import Envelope
from relay.header import END_OF_HEADER
from relay.reception import CHUNK, KEPT, PATIENCE, Incoming, Reception, TooLargeError, refusal, serve
from relay.room import SpoolFullError
from relay.server import BUSY, MOST
from relay.smtp import Data, End, Event, Piece, Reply
from relay.spool import Spool, SpoolError

SMALL = 64 * 1024
"""Octets of a message that is held in memory until it has come whole."""

_LOOK = 1.0
"""Seconds between looks for clients that say nothing."""

Begin = Callable[[socket.socket], Reception]
"""Begins a session."""


@dataclass
class _Client:
    """A client in the common thread.

    Args:
        heard: when it was last heard of, as time.monotonic().
        message: that is on its way.
        failure: why that will not be kept; the rest of it is read over.
        unsent: octets that it has not taken yet.
        waits: whether its message is being kept; nothing that it says is read meanwhile.
        deaf: whether it is not listened to, since it has spoken while it waits.
    """

    reception: Reception
    heard: float
    message: Incoming | None = None
    pieces: list[bytes] = field(default_factory=list)
    octets: int = 0
    failure: Exception | None = None
    unsent: bytes = b""
    waits: bool = False
    deaf: bool = False

    def hold(self, piece: bytes) -> None:
        """Take a piece of the message."""
        if self.failure or not self.message:
            return
        try:
            self.message.count(piece)
        except (SpoolFullError, TooLargeError) as error:
            self.failure = error
            self.pieces.clear()
        else:
            self.pieces.append(piece)
            self.octets += len(piece)

    def take_message(self) -> Incoming:
        """Give the message with what has come of it, and have none any more."""
        message, self.message = self.message, None
        assert message is not None, "its content has come"
        message.held, self.pieces, self.octets = b"".join(self.pieces), [], 0
        return message

    def forget(self) -> None:
        """Give back what is kept for the message."""
        if self.message:
            self.take_message().kept.close()


@dataclass(frozen=True)
class _Whole:
    """A message that has come whole.

    Args:
        top: its beginning, with the header.
    """

    client: _Client
    message: Incoming
    envelope: Envelope
    top: bytes


_Kept = Sequence[tuple[_Client, Reply]]
"""Clients, and what they are to hear."""


class Front:
    """Serves Postfix.

    Args:
        listener: that it connects to.
        begin: begins a client's session.
        most: clients at once.
    """

    def __init__(self, listener: socket.socket, begin: Begin, spool: Spool, most: int = MOST) -> None:
        self._listener, self._begin, self._spool, self._most = listener, begin, spool, most
        self._selector = selectors.DefaultSelector()
        self._clients: dict[int, _Client] = {}
        self._whole: list[_Whole] = []
        self._keeper = ThreadPoolExecutor(1, thread_name_prefix="keeper")
        self._being_kept: Future[_Kept] | None = None
        self._lock = threading.Lock()
        self._slow: dict[threading.Thread, socket.socket] = {}
        self._stopping = threading.Event()
        self._awake, self._waker = socket.socketpair()

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens: address and port."""
        host, port, *_ = self._listener.getsockname()
        return host, port

    def stop(self) -> None:
        """Take no more clients, and hang up on those that are there: what they have not finished they will repeat."""
        self._stopping.set()
        self._wake()

    def _wake(self) -> None:
        with suppress(OSError):  # it is awake when there is no room, or has ended
            self._waker.send(b"\0")

    def serve(self) -> None:
        """Serve until `stop`; on return nobody is served any more."""
        self._waker.setblocking(False)
        # Its thread is there before anybody needs it: later the system may have none.
        self._keeper.submit(int).result()
        for one in (self._listener, self._awake):
            one.setblocking(False)
            self._selector.register(one, selectors.EVENT_READ)
        try:
            while not self._stopping.is_set():
                self._serve_once()
        finally:
            self._end()

    def _serve_once(self) -> None:
        for key, _ in self._selector.select(_LOOK):
            if key.fileobj is self._listener:
                self._accept()
            elif key.fileobj is self._awake:
                self._awake.recv(CHUNK)
            elif client := self._clients.get(key.fd):
                self._guard(client, self._hear)
        self._keep()
        self._leave_the_silent()

    def _end(self) -> None:
        self._keeper.shutdown()
        self._answer_those_kept()
        for client in list(self._clients.values()):
            self._close(client)
        with self._lock:
            slow = dict(self._slow)
        for connection in slow.values():
            with suppress(OSError):  # it has gone by itself
                connection.shutdown(socket.SHUT_RDWR)
        for thread in slow:
            thread.join()
        self._selector.close()
        self._awake.close()
        self._waker.close()

    # ---- Clients

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except BlockingIOError:
            return
        except OSError as error:  # clients come again, but a service that has ended takes nothing
            print(f"darkpipe-queue: {error}", file=sys.stderr, flush=True)
            self._stopping.wait(_LOOK)
            return
        connection.setblocking(False)
        with self._lock:
            served = len(self._clients) + len(self._slow)
        if served >= self._most:
            with connection, suppress(OSError):  # it did not wait
                connection.send(BUSY)
            return
        client = _Client(self._begin(connection), time.monotonic())
        self._clients[connection.fileno()] = client
        self._selector.register(connection, selectors.EVENT_READ)
        self._guard(client, self._go_on)

    def _guard(self, client: _Client, act: Callable[[_Client], None]) -> None:
        """Let nobody's session end those of others."""
        try:
            act(client)
        except OSError:
            self._close(client)
        except Exception as fault:
            _tell(fault)
            self._close(client)

    def _close(self, client: _Client) -> None:
        connection = self._let_go(client)
        client.forget()
        connection.close()

    def _let_go(self, client: _Client) -> socket.socket:
        connection = client.reception.connection
        if self._clients.pop(connection.fileno(), None) and not client.deaf:
            self._selector.unregister(connection)
        return connection

    def _leave_the_silent(self) -> None:
        now = time.monotonic()
        for client in [one for one in self._clients.values() if now - one.heard > PATIENCE]:
            self._close(client)

    # ---- What they say

    def _hear(self, client: _Client) -> None:
        client.heard = time.monotonic()
        if client.unsent:
            self._send(client)
            return
        if client.waits:
            client.deaf = True
            self._selector.unregister(client.reception.connection)
            return
        try:
            data = client.reception.connection.recv(CHUNK)
        except BlockingIOError:
            return
        if not data:
            self._close(client)
            return
        client.reception.session.feed(data)
        self._go_on(client)

    def _go_on(self, client: _Client) -> None:
        """Do what its input asks for, as long as it waits for nothing."""
        reception = client.reception
        while event := reception.session.next_event():
            match event:
                case Data():
                    client.message, client.failure = reception.begin_message(), None
                    if client.message and self._spool.waits:
                        self._give_thread(client)
                        return
                case Piece():
                    client.hold(event.octets)
                    if client.octets > SMALL:
                        self._give_thread(client)
                        return
                case End():
                    if self._ends(client):
                        return
                case _ if reception.is_quick(event):
                    reception.do(event)
                case _:
                    self._give_thread(client, event)
                    return
        self._send(client)

    def _ends(self, client: _Client) -> bool:
        """Let a message end; tells whether its client waits for something then."""
        assert client.message is not None, "its content has come"
        client.message.ended = True
        if client.failure:
            client.take_message().kept.close()
            client.reception.session.answer(refusal(client.failure))
            return False
        if client.message.asked and not client.message.asked.answered:
            self._give_thread(client)
        else:
            message = client.take_message()
            top = message.held.partition(END_OF_HEADER)[0] + END_OF_HEADER
            self._whole.append(_Whole(client, message, message.envelope(top), top))
            client.waits = True
        return True

    # ---- Keeping

    def _keep(self) -> None:
        """Answer those whose messages were kept, and then keep all that have come whole meanwhile."""
        if self._being_kept and not self._being_kept.done():
            return
        self._answer_those_kept()
        if self._whole:
            self._being_kept = self._keeper.submit(self._store, self._whole)
            self._whole = []
            self._being_kept.add_done_callback(lambda _: self._wake())

    def _store(self, whole: Sequence[_Whole]) -> _Kept:
        """Keep messages, in the keeper's thread, which nothing ends."""
        replies = [refusal(SpoolError("it was not tried"))] * len(whole)
        try:
            results = self._spool.store_all([(one.envelope, one.message, one.message.room) for one in whole])
            replies = [_reply(one, result) for one, result in zip(whole, results, strict=True)]
        except Exception as fault:
            _tell(fault)
        finally:
            for one in whole:
                one.message.kept.close()
        return [(one.client, reply) for one, reply in zip(whole, replies, strict=True)]

    def _answer_those_kept(self) -> None:
        kept, self._being_kept = self._being_kept, None
        for client, reply in kept.result() if kept else ():
            if self._clients.get(client.reception.connection.fileno()) is client:
                client.waits = False
                client.heard = time.monotonic()
                if client.deaf:
                    client.deaf = False
                    self._selector.register(client.reception.connection, selectors.EVENT_READ)
                client.reception.session.answer(reply)
                self._guard(client, self._go_on)

    # ---- Sending

    def _send(self, client: _Client) -> None:
        """Send what it is to hear; what it does not take now, it gets before anything more is read."""
        connection, session = client.reception.connection, client.reception.session
        text = client.unsent + session.take_output()
        sent = 0
        if text:
            with suppress(BlockingIOError):
                sent = connection.send(text)
        before, client.unsent = client.unsent, text[sent:]
        if client.unsent:
            self._selector.modify(connection, selectors.EVENT_WRITE)
        elif session.over:
            self._close(client)
        elif before:
            self._selector.modify(connection, selectors.EVENT_READ)

    # ---- Those who are not quick

    def _give_thread(self, client: _Client, event: Event | None = None) -> None:
        """Serve a client in a thread of its own from now on.

        Args:
            event: that is to be done first.
        """
        message = client.take_message() if client.message else None
        connection = self._let_go(client)
        thread = threading.Thread(target=self._serve_slow, args=(client.reception, message, event))
        with self._lock:
            self._slow[thread] = connection
        try:
            thread.start()
        except RuntimeError as error:  # the system has none
            print(f"darkpipe-queue: {error}", file=sys.stderr, flush=True)
            with self._lock:
                del self._slow[thread]
            if message:
                message.kept.close()
            connection.close()

    def _serve_slow(self, reception: Reception, message: Incoming | None, event: Event | None) -> None:
        try:
            serve(reception, message, event)
        finally:
            with self._lock:
                del self._slow[threading.current_thread()]
                reception.connection.close()


def _reply(whole: _Whole, result: QueuedItem | Exception) -> Reply:
    """Give the last answer to a message, whether it was kept or not."""
    if isinstance(result, Exception):
        return refusal(result)
    try:
        return whole.client.reception.keep(result, whole.envelope, whole.top)
    except Exception as fault:  # it is there all the same
        _tell(fault)
        return KEPT


def _tell(fault: Exception) -> None:
    """Tell of a fault of our own as one in a thread of its own is told of."""
    threading.excepthook(threading.ExceptHookArgs((type(fault), fault, fault.__traceback__, None)))
