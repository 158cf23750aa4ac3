"""A store that fails, stalls and lies: an HTTP proxy before a true one."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Fault(StrEnum):
    """What happens to a request instead of what should."""

    ERROR = "error"
    """It is answered with 500."""
    FULL = "full"
    """It is answered with 507."""
    REFUSE = "refuse"
    """It is answered with 403."""
    HANG_UP = "hang-up"
    """There is no answer, and the connection ends."""
    STALL = "stall"
    """There is no answer, and the connection stays."""
    SWALLOW = "swallow"
    """It is answered with 200, and nothing is done."""
    LOSE_ANSWER = "lose-answer"
    """It is done, and the connection ends without an answer."""
    CUT = "cut"
    """Half of the answer's body comes, and the connection ends."""
    SHORT = "short"
    """Half of the body is given as the whole."""
    LONG = "long"
    """Something is added to the body."""
    OTHER = "other"
    """One bit of the body is another."""
    GONE = "gone"
    """It is answered with 404."""
    OLDER = "older"
    """The body is that of the first answer for this object."""


WHEN_WRITTEN = (
    Fault.ERROR,
    Fault.FULL,
    Fault.REFUSE,
    Fault.HANG_UP,
    Fault.STALL,
    Fault.SWALLOW,
    Fault.LOSE_ANSWER,
)
WHEN_READ = (
    Fault.ERROR,
    Fault.HANG_UP,
    Fault.STALL,
    Fault.CUT,
    Fault.SHORT,
    Fault.LONG,
    Fault.OTHER,
    Fault.GONE,
)


@dataclass(frozen=True)
class Call:
    """A request.

    Args:
        path: of the URL, without the query.
        octets: of its body.
    """

    method: str
    path: str
    octets: int


Plan = Callable[[Call], Fault | None]
"""Chooses what happens to a request."""


class FaultProxy:
    """A running proxy; `plan` may be changed at any time.

    Args:
        port: of the true store.
    """

    def __init__(self, port: int) -> None:
        self.upstream = port
        self.plan: Plan = lambda call: None
        self.calls: list[Call] = []
        self.first_answers: dict[str, bytes] = {}
        self.lock = threading.Lock()
        self.ended = threading.Event()
        outer = self

        class Handler(_Handler):
            proxy = outer

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    @contextmanager
    def running(self) -> Iterator[FaultProxy]:
        thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield self
        finally:
            self.ended.set()
            self._server.shutdown()
            thread.join()
            self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: FaultProxy

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        call = Call(self.command, self.path.partition("?")[0], len(body))
        with self.proxy.lock:
            self.proxy.calls.append(call)
            fault = self.proxy.plan(call)
        early = {Fault.ERROR: 500, Fault.FULL: 507, Fault.REFUSE: 403, Fault.GONE: 404, Fault.SWALLOW: 200}
        if fault in {Fault.HANG_UP, Fault.STALL}:
            if fault is Fault.STALL:
                self.proxy.ended.wait(30)
            self.close_connection = True
        elif fault in early:
            self._answer(early[fault], [("ETag", '"0"')], b"")
        else:
            self._forward(call, body, fault)

    def _forward(self, call: Call, body: bytes, fault: Fault | None) -> None:
        upstream = http.client.HTTPConnection("127.0.0.1", self.proxy.upstream, timeout=30)
        try:
            upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                upstream.putheader(name, value)
            upstream.endheaders(body)
            response = upstream.getresponse()
            octets = response.read()
        finally:
            upstream.close()
        if fault is Fault.LOSE_ANSWER:
            self.close_connection = True
            return
        hop = {"transfer-encoding", "connection"}
        length = set() if call.method == "HEAD" else {"content-length"}
        fields = [(name, value) for name, value in response.getheaders() if name.lower() not in hop | length]
        if call.method == "GET" and response.status == 200:
            with self.proxy.lock:
                first = self.proxy.first_answers.setdefault(call.path, octets)
            octets = _changed(octets, first, fault)
        self._answer(response.status, fields, octets, cut=fault is Fault.CUT)

    def _answer(self, status: int, fields: list[tuple[str, str]], body: bytes, *, cut: bool = False) -> None:
        self.send_response(status)
        for name, value in fields:
            self.send_header(name, value)
        if self.command != "HEAD":
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: len(body) // 2] if cut else body)
        if cut:
            self.close_connection = True

    do_GET = do_PUT = do_DELETE = do_HEAD = do_POST = _serve  # noqa: N815 (http.server's names)

    def log_message(self, *_arguments: Any) -> None:
        """Nothing is logged."""


def _changed(octets: bytes, first: bytes, fault: Fault | None) -> bytes:
    match fault:
        case Fault.SHORT:
            return octets[: len(octets) // 2]
        case Fault.LONG:
            return octets + b"more"
        case Fault.OTHER:
            return octets[:-1] + bytes([octets[-1] ^ 1]) if octets else b"x"
        case Fault.OLDER:
            return first
    return octets
