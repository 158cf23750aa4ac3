"""A listener of the control plane: HTTP/1.1 over TLS 1.3, for one home and nobody else.

Whoever can reach the port is in the tunnel, and that gives nothing: not an octet is answered before the handshake has
proven home's certificate. Bodies are streamed, in either direction.
"""

from __future__ import annotations

import os
import socket
import ssl
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import BinaryIO, Protocol

import h11

from model.control import PROTOCOL, ControlError, Header
from model.control_tls import Pins
from relay.control import Handler, Response
from relay.control_request import Unfit, judge, parse
from relay.fence import Identity
from relay.server import Server

MOST = 16
"""Connections at once. Home has two or three."""

_HANDSHAKE = 10.0
"""Seconds until home must have proven itself."""

_IDLE = 60.0
"""Seconds that home may take for its next octet of a request, and for taking the next ones of a response."""

_BETWEEN = 120.0
"""Seconds until the next request on a connection."""

_HEAD = 30.0
"""Seconds for a whole head, from its first octet."""

_LINGER = 2.0
"""Seconds for home to hang up, after the last response."""

_PIECE = 64 * 1024
_LARGEST_HEAD = 16 * 1024

LARGEST_BODY = 512 * 2**20
"""Octets of the largest body of a request; the relay's software is the largest one."""

Admit = Callable[[], Pins | None]
"""Gives the certificates that hold for a new connection. None: those who come are known by the tunnel (pairing)."""


class Gone(ConnectionError):
    """Home has hung up in the middle of a request, or is too slow: nobody is there to be answered."""


class _Connection(Protocol):
    """A socket, with or without TLS."""

    def recv(self, size: int, /) -> bytes: ...
    def sendall(self, data: bytes, /) -> None: ...
    def settimeout(self, seconds: float | None, /) -> None: ...


class ControlServer:
    """Serves home.

    Args:
        listener: that it connects to.
        admit: asked for each connection, so that certificates may change.
        identity: asked for each request, so that the fence may be raised.
        handler: answers requests of several threads at once.
        newer: whether a home is served whose epoch is higher than the fence; the handler raises it.
    """

    def __init__(
        self,
        listener: socket.socket,
        admit: Admit,
        identity: Callable[[], Identity],
        handler: Handler,
        *,
        newer: bool = False,
        most: int = MOST,
        largest: int = LARGEST_BODY,
    ) -> None:
        self._admit, self._identity, self._handler = admit, identity, handler
        self._newer, self._largest = newer, largest
        self._server = Server(listener, self._converse, most, busy=b"")

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens: address and port."""
        return self._server.address

    def serve(self) -> None:
        """Serve until `stop`; on return nobody is served any more."""
        self._server.serve()

    def stop(self) -> None:
        """Take no more connections, and end those that are there."""
        self._server.stop()

    def _converse(self, plain: socket.socket) -> None:
        plain.settimeout(_HANDSHAKE)
        # Without it a body waits for the ACK of its head, which Linux delays by 40 ms (tcp(7)).
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        pins = self._admit()
        if pins is None:
            self._answer_all(plain)
        else:
            self._shake_hands(plain, pins)
        _linger(plain)

    def _shake_hands(self, plain: socket.socket, pins: Pins) -> None:
        try:
            with pins.context.wrap_socket(plain.dup(), server_side=True) as connection:
                if pins.knows(connection):
                    self._answer_all(connection)
                else:
                    _log("refused somebody in the tunnel whose certificate is not home's")
        except ssl.SSLError as error:
            _log(f"refused somebody in the tunnel who has not proven to be home ({error.reason or 'no TLS'})")
        except OSError:  # gone, or too slow
            return

    def _answer_all(self, connection: _Connection) -> None:
        http = h11.Connection(h11.SERVER, max_incomplete_event_size=_LARGEST_HEAD)
        stream = _Stream(connection, http)
        try:
            while self._answer_one(stream):
                http.start_next_cycle()
        except (OSError, h11.ProtocolError):  # gone, too slow, or no HTTP
            return
        except Exception as error:  # of pieces that a handler gives; home sees that there are more
            _log(f"a response was cut off: {type(error).__name__}: {error}")

    def _answer_one(self, stream: _Stream) -> bool:
        """Answer a request; tells whether there may be another."""
        try:
            head = stream.head()
        except h11.RemoteProtocolError as error:
            if stream.http.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
                stream.send(Response.refuse(error.error_status_hint, "expected a request in HTTP/1.1"), {}, last=True)
            return False
        if head is None:
            return False
        identity = self._identity()
        body = _Incoming(stream, head)
        answer = self._respond(head, body, identity)
        # What was not read would have to be read now, however long it is.
        last = not body.at_end() or stream.http.their_state is h11.MUST_CLOSE
        stream.send(answer, _own_headers(identity), last=last)
        return not last

    def _respond(self, head: h11.Request, body: _Incoming, identity: Identity) -> Response:
        try:
            request = parse(head, body, self._largest)
            judge(head, request, identity, newer=self._newer)
        except Unfit as unfit:
            _log(f"refused a request of home: {unfit.problem}")
            return Response.refuse(unfit.status, unfit.problem)
        try:
            return self._handler(request)
        except Gone:
            raise
        except ControlError as error:
            return Response.refuse(HTTPStatus.BAD_REQUEST, str(error))
        except Exception as error:  # a fault of ours ends one request, and not the relay
            _log(f"{request.method} {request.path}: {type(error).__name__}: {error}")
            return Response.refuse(HTTPStatus.INTERNAL_SERVER_ERROR, "the relay has met a fault; its log says which")


class _Stream:
    """A connection, as h11 sees it."""

    def __init__(self, connection: _Connection, http: h11.Connection) -> None:
        self.connection, self.http = connection, http

    def head(self) -> h11.Request | None:
        """Wait for a request; None when home has hung up."""
        deadline: float | None = None
        self.connection.settimeout(_BETWEEN)
        while (event := self.http.next_event()) is h11.NEED_DATA:
            if deadline is not None:
                # A timeout of the socket would begin anew with every octet.
                self.connection.settimeout(max(deadline - time.monotonic(), 0.001))
            self.http.receive_data(self.connection.recv(_PIECE))
            deadline = deadline or time.monotonic() + _HEAD
        self.connection.settimeout(_IDLE)
        return event if isinstance(event, h11.Request) else None

    def more(self) -> bytes | None:
        """Give the next octets of a body; None at its end.

        Raises:
            Gone: home has.
        """
        try:
            while (event := self.http.next_event()) is h11.NEED_DATA:
                if self.http.they_are_waiting_for_100_continue:
                    self._write(h11.InformationalResponse(status_code=HTTPStatus.CONTINUE, headers=[]))
                self.http.receive_data(self.connection.recv(_PIECE))
        except (OSError, h11.RemoteProtocolError):
            raise Gone from None
        return bytes(event.data) if isinstance(event, h11.Data) else None

    def send(self, answer: Response, own: Mapping[str, str], *, last: bool) -> None:
        """Send a response."""
        match answer.body:
            case Path() as path:
                try:
                    file = path.open("rb")
                except OSError as error:
                    _log(f"{path}: {error.strerror}")
                    self.send(Response.refuse(HTTPStatus.NOT_FOUND, "it is not there any more"), own, last=last)
                    return
                with file:
                    length = os.fstat(file.fileno()).st_size
                    self._send(answer, {**own, "Content-Length": str(length)}, _pieces(file), last=last)
            case bytes() as octets:
                self._send(answer, {**own, "Content-Length": str(len(octets))}, [octets], last=last)
            case pieces:
                self._send(answer, own, pieces, last=last)

    def _send(self, answer: Response, own: Mapping[str, str], pieces: Iterable[bytes], *, last: bool) -> None:
        fields = {**own, **answer.headers, **({"Connection": "close"} if last else {})}
        pairs = [(name.encode(), value.encode()) for name, value in fields.items()]
        self._write(h11.Response(status_code=answer.status, headers=pairs))
        for piece in pieces:
            self._write(h11.Data(data=piece))
        self._write(h11.EndOfMessage())

    def _write(self, event: h11.Event) -> None:
        if octets := self.http.send(event):
            self.connection.sendall(octets)


class _Incoming:
    """The body of a request (relay.control.Body)."""

    def __init__(self, stream: _Stream, head: h11.Request) -> None:
        self._stream = stream
        self._held: bytes | None = b""
        lengths = [value for name, value in head.headers if name == b"content-length"]
        self.length = int(lengths[0]) if lengths else 0

    def read(self, size: int, /) -> bytes:
        if self._held == b"":
            self._held = self._stream.more()
        if self._held is None:
            return b""
        given, self._held = self._held[:size], self._held[size:]
        return given

    def at_end(self) -> bool:
        """Tell whether all was read; the end itself may come with the last octet."""
        http = self._stream.http
        if self._held == b"" and http.their_state is h11.SEND_BODY and not http.they_are_waiting_for_100_continue:
            event = http.next_event()
            self._held = None if isinstance(event, h11.EndOfMessage) else self._held
        return http.their_state is not h11.SEND_BODY and not self._held


def _linger(connection: socket.socket) -> None:
    """Let home read what it was told last: the kernel takes it back when more of a request comes in (RFC 9112 §9.6)."""
    end = time.monotonic() + _LINGER
    try:
        connection.shutdown(socket.SHUT_WR)
        while (left := end - time.monotonic()) > 0:
            connection.settimeout(left)
            if not connection.recv(_PIECE):
                return
    except OSError:  # gone already
        return


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    yield from iter(partial(file.read, _PIECE), b"")


def _own_headers(identity: Identity) -> dict[str, str]:
    known = {Header.PROTOCOL: str(PROTOCOL), Header.RELAY: identity.relay}
    return {str(name): value for name, value in known.items() if value}


def _log(text: str) -> None:
    print(f"darkpipe-control: {text}", file=sys.stderr, flush=True)
