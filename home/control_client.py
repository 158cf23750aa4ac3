"""Home's end of the control plane: requests to one listener of the relay, over TLS 1.3 with pinned certificates.

Every request may be repeated: whoever has got no answer asks again.
"""

from __future__ import annotations

import http.client
import io
import os
import select
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import BinaryIO, Protocol, Self, TypeVar

from home.control_errors import (
    Apart,
    ControlFailure,
    Fenced,
    Garbled,
    NotAccepted,
    OtherRelay,
    Refused,
    Unreachable,
    WrongCertificate,
)
from home.relay_answers import sentence
from model.control import LARGEST_MESSAGE, PROTOCOL, ControlError, Header, Message, Problem
from model.control_tls import Pins

_CONNECT = 10.0
"""Seconds for a connection and its handshake."""

_IDLE = 60.0
"""Seconds for the next octet, in either direction."""

_MESSAGE = 90.0
"""Seconds for a request and its response that are messages; the relay may have to hash and to start something."""

_SLOWEST = 2048
"""Octets in a second, below which a transfer is given up: a relay that drips does not hold home up for ever."""

_LONGEST_NUMBER = 20
"""Digits."""

_PIECE = 64 * 1024
_NO_CERTIFICATE = frozenset({"TLSV1_ALERT_UNKNOWN_CA", "TLSV13_ALERT_CERTIFICATE_REQUIRED"})
_BAD_CERTIFICATE = frozenset({"SSLV3_ALERT_BAD_CERTIFICATE", "SSLV3_ALERT_CERTIFICATE_UNKNOWN"})

_M = TypeVar("_M", bound=Message)


class Sink(Protocol):
    """Takes octets, as a file does."""

    def write(self, octets: bytes, /) -> object:
        """Take all of them."""


@dataclass(frozen=True)
class Home:
    """Who asks.

    Args:
        id: home's; empty before pairing.
        epoch: home's.
        relay: id of the relay that must answer; empty when it is not known yet.
    """

    id: str
    epoch: int
    relay: str = ""


@dataclass(frozen=True)
class Answer:
    """A response with a status of 200 to 299.

    Args:
        body: empty when it was streamed.
        length: octets of the body.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes = b""
    length: int = 0

    def message(self, kind: type[_M]) -> _M:
        """Read the body as a message.

        Raises:
            Garbled: it is something else.
        """
        try:
            return kind.read(self.body)
        except ControlError as error:
            raise Garbled(str(error)) from None


class ControlClient:
    """Speaks with one listener; a connection is kept for the next request. For one thread at a time.

    Args:
        place: the listener's address and port.
        home: who asks.
        pins: certificates. None: the relay is known by the tunnel (pairing).
    """

    def __init__(self, place: tuple[str, int], home: Home, pins: Pins | None) -> None:
        self._place, self._home, self._pins = place, home, pins
        self._kept: _Line | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Hang up."""
        if self._kept is not None:
            self._kept.close()
            self._kept = None

    def request(self, method: str, path: str, body: bytes | BinaryIO = b"") -> Answer:
        """Ask for something whose answer is a message.

        Args:
            path: with the query.
            body: octets, or a file that is sent from where it stands to its end.

        Raises:
            ControlFailure: there is no good answer; the kind says why.
        """
        response, seconds = self._ask(method, path, body)
        with self._in_words(), self._watched(seconds):
            content = _whole(response)
        if len(content) > LARGEST_MESSAGE:
            self.close()
            raise Garbled(f"found more than {LARGEST_MESSAGE} octets in the place of a message")
        return self._answer(response, content, len(content))

    def send(self, method: str, path: str, message: Message) -> Answer:
        """Ask with a message.

        Raises:
            ControlFailure: there is no good answer; the kind says why.
        """
        return self.request(method, path, message.to_json())

    def download(self, path: str, into: Sink, largest: int) -> Answer:
        """Fetch something into a file.

        Args:
            largest: octets that are taken.

        Raises:
            ControlFailure: there is no good answer, or not all of it has come: then the file has a part of it.
            OSError: the file cannot be written.
        """
        response, _ = self._ask("GET", path, b"")
        length = response.length if response.length is not None else largest + 1
        if not _is_good(response):
            with self._in_words(), self._watched(_MESSAGE):
                return self._answer(response, _whole(response), 0)
        if length > largest:
            self.close()
            raise Garbled(f"found a body of {length} octets or without a length, expected {largest} at most")
        with self._watched(_MESSAGE + length / _SLOWEST):
            taken = 0
            while piece := self._read(response):
                into.write(piece)
                taken += len(piece)
        if taken != length:
            self.close()
            raise Unreachable(f"the relay has hung up after {taken} of {length} octets")
        return self._answer(response, b"", taken)

    def _read(self, response: http.client.HTTPResponse) -> bytes:
        with self._in_words():
            return response.read(_PIECE)

    def _ask(self, method: str, path: str, body: bytes | BinaryIO) -> tuple[http.client.HTTPResponse, float]:
        """Send a request and wait for the head of its response; give that, and the seconds for its body."""
        start = None if isinstance(body, bytes) else body.tell()
        length = len(body) if isinstance(body, bytes) else os.fstat(body.fileno()).st_size - (start or 0)
        seconds = _MESSAGE + length / _SLOWEST
        kept = self._kept is not None
        while True:
            try:
                with self._in_words():
                    line = self._kept = self._kept or self._connect()
                    with self._watched(seconds):
                        response = line.ask(method, path, body, self._headers(length))
                break
            except Unreachable:
                # The relay ends a connection that was idle, and may do so just now.
                if not kept:
                    raise
                kept = False
                if not isinstance(body, bytes):
                    body.seek(start or 0)
        self._check(response)
        return response, _MESSAGE

    def _connect(self) -> _Line:
        plain = socket.create_connection(self._place, timeout=_CONNECT)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._pins is None:
            plain.settimeout(_IDLE)
            return _Line(plain)
        try:
            wrapped = self._pins.context.wrap_socket(plain)
        except BaseException:
            plain.close()
            raise
        if not self._pins.knows(wrapped):
            wrapped.close()
            raise WrongCertificate("another certificate was shown, which the relay's key vouches for")
        wrapped.settimeout(_IDLE)
        return _Line(wrapped)

    def _headers(self, length: int) -> Mapping[str, str]:
        return {
            Header.PROTOCOL: str(PROTOCOL),
            Header.HOME: self._home.id,
            Header.HOME_EPOCH: str(self._home.epoch),
            "Content-Length": str(length),
        }

    def _check(self, response: http.client.HTTPResponse) -> None:
        """See that it is the relay that answers, and in a version that home understands."""
        theirs = response.getheader(Header.PROTOCOL, "")
        if not theirs.isascii() or not theirs.isdecimal() or len(theirs) > _LONGEST_NUMBER:
            self.close()
            raise Garbled(f"found an answer without {Header.PROTOCOL}")
        if abs(int(theirs) - PROTOCOL) > 1:
            self.close()
            raise Apart(int(theirs))
        relay = response.getheader(Header.RELAY, "")
        if self._home.relay and relay != self._home.relay:
            self.close()
            raise OtherRelay(f"found relay {sentence(relay) or 'without an id'}, expected {self._home.relay}")

    def _answer(self, response: http.client.HTTPResponse, content: bytes, length: int) -> Answer:
        if response.will_close:
            self.close()
        if _is_good(response):
            return Answer(response.status, dict(response.getheaders()), content, length)
        try:
            problem = sentence(Problem.read(content).problem)
        except ControlError:
            problem = f"the relay has answered with status {response.status}"
        kind = Fenced if response.status == HTTPStatus.CONFLICT else Refused
        raise kind(response.status, problem)

    @contextmanager
    def _in_words(self) -> Iterator[None]:
        """Turn what the connection raises into what it means."""
        try:
            yield
        except ControlFailure:
            self.close()
            raise
        except ssl.SSLCertVerificationError as error:
            self.close()
            raise WrongCertificate(error.verify_message) from None
        except ssl.SSLError as error:
            self.close()
            if error.reason in _NO_CERTIFICATE | _BAD_CERTIFICATE:
                raise NotAccepted("the relay does not accept home's certificate") from None
            raise Unreachable(f"TLS failed ({error.reason or error})") from None
        except OSError as error:
            self.close()
            raise Unreachable(error.strerror or str(error) or type(error).__name__) from None
        except (http.client.IncompleteRead, http.client.RemoteDisconnected, http.client.BadStatusLine) as error:
            self.close()
            raise Unreachable(f"the relay has hung up ({type(error).__name__})") from None
        except (http.client.HTTPException, ValueError) as error:
            self.close()
            raise Garbled(f"the answer is no HTTP ({type(error).__name__})") from None

    @contextmanager
    def _watched(self, seconds: float) -> Iterator[None]:
        """Hang up after so many seconds: the timeout of a socket begins anew with every octet."""
        line = self._kept
        timer = threading.Timer(seconds, line.cut if line else lambda: None)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()


class _Line(http.client.HTTPConnection):
    """HTTP over a connection that is there already."""

    def __init__(self, connection: socket.socket) -> None:
        super().__init__("relay")
        self.sock = connection

    def connect(self) -> None:
        """Never anew: the certificates would not be looked at."""
        raise ConnectionResetError("the connection has ended")

    def ask(
        self, method: str, path: str, body: bytes | BinaryIO, headers: Mapping[str, str]
    ) -> http.client.HTTPResponse:
        """Send a request, and wait for the head of its response."""
        self.request(method, path, self._pieces(body), dict(headers))
        return self.getresponse()

    def _pieces(self, body: bytes | BinaryIO) -> Iterator[bytes]:
        """Cut a body into pieces, up to the moment when the relay has something to say: it may refuse the rest."""
        file = io.BytesIO(body) if isinstance(body, bytes) else body
        for piece in iter(lambda: file.read(_PIECE), b""):
            if select.select([self.sock], [], [], 0)[0]:
                return
            yield piece

    def cut(self) -> None:
        """Wake whoever waits for it."""
        connection = self.sock
        if connection is not None:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:  # it has ended by itself
                return


def _whole(response: http.client.HTTPResponse) -> bytes:
    """Read a message, and one octet too many if there are more."""
    expected = response.length
    content = response.read(LARGEST_MESSAGE + 1)
    if expected is not None and len(content) < min(expected, LARGEST_MESSAGE + 1):
        raise http.client.IncompleteRead(content)
    return content


def _is_good(response: http.client.HTTPResponse) -> bool:
    return HTTPStatus.OK <= response.status < HTTPStatus.MULTIPLE_CHOICES
