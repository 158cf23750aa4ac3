"""Serves a page, over HTTPS or, to lead there, without."""

from __future__ import annotations

import socket
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp

PORT = 443


def listening_socket(port: int) -> socket.socket:
    """Listen for both IPv6 and IPv4, or for the latter alone where the kernel has no IPv6.

    Raises:
        OSError: the port is taken.
    """
    if socket.has_dualstack_ipv6():
        return socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("0.0.0.0", port))  # noqa: S104


def server(app: ASGIApp, certificate: Path | None) -> uvicorn.Server:
    """Make the server.

    Args:
        certificate: key and certificate, in one PEM file; None for plain HTTP.
    """
    config = uvicorn.Config(
        app,
        ssl_certfile=str(certificate) if certificate else None,
        http="h11",
        ws="none",
        loop="asyncio",
        lifespan="off",
        access_log=False,
        log_level="warning",
        server_header=False,
        proxy_headers=False,
        limit_concurrency=32,
        backlog=32,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=5,
        h11_max_incomplete_event_size=16384,
    )
    return uvicorn.Server(config)
