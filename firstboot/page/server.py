"""Serves the page over HTTPS until the disk is unlocked; darkpipe-page.service runs it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
from pathlib import Path

import uvicorn

from firstboot.page.app import make_app
from firstboot.unlock_socket import UnlockClient
from firstboot.unlocking import Refused
from web.plain import serve_plain
from web.server import PORT, listening_socket, server

_LOOK_AGAIN = 2.0
_FAREWELL = 20.0
"""Seconds for which the page goes on to say that the disk is unlocked."""


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
    try:
        serve_plain()
    except OSError as error:
        # Whoever types https:// can unlock the disk all the same.
        print(f"plain HTTP leads nobody to this page: {error}", flush=True)
    asyncio.run(_serve(server(make_app(client), certificate), client, listening_socket(PORT)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
