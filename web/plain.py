"""What answers to plain HTTP: it leads a browser to the page over HTTPS, and knows nothing else."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from web.guard import Guard
from web.server import listening_socket, server

PORT = 80


def plain_app(hostname: Callable[[], str]) -> Starlette:
    """Make the application; the guard before it lets nothing but the device's own names become a `Location`.

    Args:
        hostname: gives the device's name now.
    """
    return Starlette(routes=[Route("/{path:path}", _lead)], middleware=[Middleware(Guard, hostname=hostname)])


def serve_plain(listening: socket.socket | None = None) -> None:
    """Begin to serve, in a thread that ends with the process.

    Args:
        listening: where; port 80 of all addresses when it is None.

    Raises:
        OSError: the port is taken.
    """
    made = server(plain_app(socket.gethostname), None)
    sockets = [listening or listening_socket(PORT)]
    threading.Thread(target=made.run, args=(sockets,), daemon=True, name="plain").start()


async def _lead(request: Request) -> Response:
    host = request.headers["host"]
    name = host if host.endswith("]") else host.rpartition(":")[0] or host
    # For now only: a browser that kept it would go on when another device has this address (RFC 9110 §15.4.8).
    return RedirectResponse(f"https://{name}/", 307)
