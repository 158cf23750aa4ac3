"""Serves the page over HTTPS until the disk is unlocked; darkpipe-page.service runs it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
from pathlib import Path

import uvicorn
from starlette.applications import Starlette

from firstboot.page.app import make_app
from firstboot.unlock_socket import UnlockClient
from firstboot.unlocking import Refused

PORT = 443
_LOOK_AGAIN = 2.0
_FAREWELL = 20.0
"""Seconds for which the page goes on to say that the disk is unlocked."""


def listening_socket(port: int) -> socket.socket:
    """Listen for both IPv6 and IPv4, or for the latter alone where the kernel has no IPv6.

    Raises:
        OSError: the port is taken.
    """
    if socket.has_dualstack_ipv6():
        return socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("0.0.0.0", port))  # noqa: S104


def server(app: Starlette, certificate: Path) -> uvicorn.Server:
    """Make the server.

    Args:
        certificate: key and certificate, in one PEM file.
    """
    config = uvicorn.Config(
        app,
        ssl_certfile=str(certificate),
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


async def _serve(made: uvicorn.Server, client: UnlockClient, listening: socket.socket) -> None:
    watch = asyncio.create_task(_until_unlocked(made, client))
    await made.serve([listening])
    watch.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await watch


async def _until_unlocked(made: uvicorn.Server, client: UnlockClient) -> None:
    while await asyncio.to_thread(_is_waiting, client):
        await asyncio.sleep(_LOOK_AGAIN)
    await asyncio.sleep(_FAREWELL)
    made.should_exit = True


def _is_waiting(client: UnlockClient) -> bool:
    try:
        client.see()
    except Refused:
        return False
    return True


def main() -> int:
    """Serve; exit status 0 once the disk is unlocked."""
    certificate = Path(os.environ["CREDENTIALS_DIRECTORY"]) / "page.pem"
    client = UnlockClient()
    asyncio.run(_serve(server(make_app(client), certificate), client, listening_socket(PORT)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
