"""The page of a device that has no configuration: it says why, and takes nothing; darkpipe-why-page.service runs it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from firstboot.why import REASON
from web.frame import Frame, guarded_app
from web.guard import Tokens
from web.plain import serve_plain
from web.server import PORT, listening_socket, server

_HERE = Path(__file__).parent
_LOOK_AGAIN = 2.0


def make_app(path: Path = REASON, hostname: Callable[[], str] = socket.gethostname) -> Starlette:
    """Make the page.

    Args:
        path: file with the reason.
        hostname: gives the device's name now.
    """
    frame = Frame(_HERE / "templates", hostname, (), Tokens())

    async def show(request: Request) -> Response:
        try:
            rows = path.read_text(encoding="utf-8").splitlines()
        except OSError:
            rows = []
        return frame.render(request, "without_site.html", rows=rows)

    return guarded_app([Route("/", show)], hostname)


async def _serve(made: uvicorn.Server, listening: socket.socket) -> None:
    watch = asyncio.create_task(_until_configured(made))
    await made.serve([listening])
    watch.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await watch


async def _until_configured(made: uvicorn.Server) -> None:
    while REASON.exists():
        await asyncio.sleep(_LOOK_AGAIN)
    made.should_exit = True


def main() -> int:
    """Serve; exit status 0 once there is a configuration."""
    certificate = Path(os.environ["CREDENTIALS_DIRECTORY"]) / "page.pem"
    try:
        serve_plain()
    except OSError as error:
        print(f"plain HTTP leads nobody to this page: {error}", flush=True)
    asyncio.run(_serve(server(make_app(), certificate), listening_socket(PORT)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
