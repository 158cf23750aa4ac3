"""Serves a page, over HTTPS or, to lead there, without."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

PORT = 443

PATIENCE = 20.0
"""Seconds that a browser has to send a request: who connects and says nothing would take the place of others."""

_ALL, _OF_ONE = 32, 12
"""Connections at once, and those of one address: a browser takes six, and one neighbour must not take them all."""


class _Listening(socket.socket):
    """Hangs up on whoever has too many connections already, before a word of TLS, to which asyncio gives a minute."""

    _taken: Mapping[str, Sequence[socket.socket]] = {}

    def accept(self) -> tuple[socket.socket, Any]:
        """Take a connection.

        Raises:
            ConnectionAbortedError: it was one too many; asyncio goes on with the next one.
        """
        found, place = super().accept()
        still = {address: [one for one in rows if one.fileno() >= 0] for address, rows in self._taken.items()}
        self._taken = {address: rows for address, rows in still.items() if rows}
        own = self._taken.get(place[0], ())
        if len(own) >= _OF_ONE:
            found.close()
            raise ConnectionAbortedError
        self._taken = {**self._taken, place[0]: [*own, found]}
        return found, place


def listening_socket(port: int) -> socket.socket:
    """Listen for both IPv6 and IPv4, or for the latter alone where the kernel has no IPv6.

    Raises:
        OSError: the port is taken.
    """
    if socket.has_dualstack_ipv6():
        made = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
    else:
        made = socket.create_server(("0.0.0.0", port))  # noqa: S104
    return _Listening(fileno=made.detach())


class Impatient(H11Protocol):
    """HTTP on one connection, which ends when a request does not arrive, or an answer is not read."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin, and look at the clock."""
        super().connection_made(transport)
        self._wait()

    def _wait(self) -> None:
        self.loop.call_later(PATIENCE, self._judge, self.cycle)

    def _judge(self, before: RequestResponseCycle | None) -> None:
        now: RequestResponseCycle | None = self.cycle
        if self.transport.is_closing() or (now is before and self.flow.write_paused):
            self.transport.abort()  # who does not read would otherwise be waited for without an end
        elif now is before and (now is None or now.more_body or self._is_half_asked(now)):
            self.transport.close()
            self._wait()
        else:
            self._wait()

    def _is_half_asked(self, last: RequestResponseCycle) -> bool:
        """Tell whether a next request has begun: nothing else ends the wait for one."""
        return last.response_complete and self.timeout_keep_alive_task is None


def server(app: ASGIApp, certificate: Path | None) -> uvicorn.Server:
    """Make the server.

    Args:
        certificate: key and certificate, in one PEM file; None for plain HTTP.
    """
    config = uvicorn.Config(
        app,
        ssl_certfile=str(certificate) if certificate else None,
        http=Impatient,
        ws="none",
        loop="asyncio",
        lifespan="off",
        access_log=False,
        log_level="warning",
        server_header=False,
        proxy_headers=False,
        limit_concurrency=_ALL,
        backlog=_ALL,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=5,
        h11_max_incomplete_event_size=16384,
    )
    return uvicorn.Server(config)
