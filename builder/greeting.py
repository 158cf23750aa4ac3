"""Waiting for a service to greet, which tells more than that its port is open."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable

from builder.errors import BuildError

_IMPLICIT_TLS = {443, 465, 990, 993, 995}
"""Ports on which TLS begins at once (RFC 8314 §7, RFC 9110 §4.2.2)."""

_SILENT = {443}
"""Ports on which the client speaks first: a finished TLS handshake is all the greeting there is."""

_PAUSE = 0.5


def free_port() -> int:
    """Give a TCP port of 127.0.0.1 that nobody uses."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def wait_for_greeting(port: int, service: int, alive: Callable[[], bool], timeout: float) -> None:
    """Return when the service behind a forwarded port has greeted.

    Args:
        port: local TCP port.
        service: the port inside the machine, which tells whether TLS begins at once.
        alive: whether the machine still runs.
        timeout: seconds.

    Raises:
        BuildError: the machine ended, or nothing greeted in time.
    """
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if greets(port, service):
            return
        if not alive():
            raise BuildError("the machine has ended before its service greeted")
        time.sleep(_PAUSE)
    raise BuildError(f"port {service} of the machine did not greet within {timeout:.0f} s", "look at its console")


def greets(port: int, service: int) -> bool:
    """Try once: connect, begin TLS where the port has it, and read the first bytes."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            if service not in _IMPLICIT_TLS:
                return bool(connection.recv(1))
            # The device's first certificate is its own; who it is does not matter here, only that it answers.
            context = ssl.create_default_context()
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            with context.wrap_socket(connection) as secured:
                return service in _SILENT or bool(secured.recv(1))
    except OSError:
        return False
