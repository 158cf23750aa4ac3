"""Whether a relay is well: its services run, stay, and listen."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Sequence

from relay.machine import System
from relay.services import Service

SECONDS = 60.0
"""Within which everything must have come up."""

_STAYS = 4.0
"""Seconds for which it must stay so: a program that ends at once is started again every second."""

_CONNECT = 3.0


def wait_until_well(
    system: System,
    services: Sequence[Service],
    tunnel: str,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> str:
    """Wait until all is well and stays so; gives what is wrong, or nothing.

    Args:
        tunnel: the relay's IPv6 address in the tunnel.
    """
    deadline, since, before = clock() + SECONDS, clock(), ""
    while True:
        problem, running = look(system, services, tunnel)
        if problem or running != before:
            since, before = clock(), running
        elif clock() - since >= _STAYS:
            return ""
        if clock() >= deadline:
            return problem or "its services are started again and again"
        sleep(0.5)


def look(system: System, services: Sequence[Service], tunnel: str) -> tuple[str, str]:
    """Look once; gives the first problem or nothing, and which processes run."""
    running = []
    for service in services:
        state, process = _state(system, service.unit)
        if state not in {"active", "reloading"}:
            return f"{service.unit} is {state}", ""
        running.append(process)
        for address, port in service.ports:
            if not _listens(address or tunnel, port):
                return f"{service.unit} does not answer on port {port}", ""
    return "", " ".join(running)


def _state(system: System, unit: str) -> tuple[str, str]:
    _, text = system.try_run("systemctl", "show", "--property=ActiveState,MainPID", unit)
    found = dict(line.partition("=")[::2] for line in text.splitlines())
    return found.get("ActiveState", "unknown"), found.get("MainPID", "0")


def _listens(address: str, port: int) -> bool:
    try:
        with socket.create_connection((address, port), _CONNECT):
            return True
    except OSError:
        return False
