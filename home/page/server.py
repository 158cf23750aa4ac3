"""Serves the administrator's page over HTTPS; darkpipe-home-page.service runs it."""

from __future__ import annotations

import errno
import os
import socket
import sys
import time
from pathlib import Path

from home.desk_client import DeskClient
from home.page.app import make_app
from web import plain
from web.plain import serve_plain
from web.server import PORT, listening_socket, server

_PATIENCE = 90.0
"""Seconds to wait for the port: the page that unlocks the disk keeps it for a while to say that it is done."""


def _wait_for_port(port: int) -> socket.socket:
    end = time.monotonic() + _PATIENCE
    while True:
        try:
            return listening_socket(port)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() > end:
                raise
        time.sleep(1.0)


def main() -> int:
    """Serve until told to stop."""
    certificate = Path(os.environ["CREDENTIALS_DIRECTORY"]) / "page.pem"
    listening = _wait_for_port(PORT)
    serve_plain(_wait_for_port(plain.PORT))
    server(make_app(DeskClient()), certificate).run([listening])
    return 0


if __name__ == "__main__":
    sys.exit(main())
