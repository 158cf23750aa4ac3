"""Both ends of the control plane, over sockets of the loopback interface."""

from __future__ import annotations

import hashlib
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from home.control_client import ControlClient, Home
from model.control import Problem
from model.control_tls import Pins, certificate_command, certificate_of
from relay.control import Handler, Request, Response
from relay.control_server import MOST, ControlServer
from relay.fence import Identity

HOME_ID, RELAY_ID = "1" * 32, "2" * 32
US = Home(HOME_ID, 3, RELAY_ID)


def make_key(folder: Path, name: str) -> tuple[Path, str]:
    """Make a key; give its file, and its certificate."""
    done = subprocess.run(certificate_command(name), capture_output=True, text=True, check=True)
    path = folder / f"{name}.pem"
    path.write_text(done.stdout)
    return path, certificate_of(done.stdout)


@dataclass
class Keys:
    """Keys of home, of the relay, and of somebody else."""

    home: tuple[Path, str]
    relay: tuple[Path, str]
    other: tuple[Path, str]


@dataclass
class Listener:
    """A listener of a relay, and what it has been asked for."""

    server: ControlServer
    asked: list[Request]
    identity: Identity

    def client(self, keys: Keys, us: Home = US, own: Path | None = None, others: str = "") -> ControlClient:
        pins = Pins(own or keys.home[0], others or keys.relay[1], server=False)
        return ControlClient(self.server.address, us, pins)


@contextmanager
def serve_relay(keys: Keys | None, handler: Handler, *, newer: bool = False, most: int = MOST) -> Iterator[Listener]:
    """Serve as the relay does; without keys in plain."""
    asked: list[Request] = []

    def handle(request: Request) -> Response:
        asked.append(request)
        return handler(request)

    pins = Pins(keys.relay[0], keys.home[1], server=True) if keys else None
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = ControlServer(listener, lambda: pins, lambda: made.identity, handle, newer=newer, most=most)
        made = Listener(server, asked, Identity(RELAY_ID, HOME_ID, 3))
        serving = threading.Thread(target=server.serve)
        serving.start()
        try:
            yield made
        finally:
            server.stop()
            serving.join(10)
            assert not serving.is_alive()


def hashed(request: Request) -> Response:
    """Answer with what was asked, and the digest of its body."""
    digest, count = hashlib.sha256(), 0
    while piece := request.body.read(1000):
        digest.update(piece)
        count += len(piece)
    return Response.of(Problem(f"{request.method} {request.path} {dict(request.query)} {count} {digest.hexdigest()}"))


def rest_of(connection: socket.socket) -> bytes:
    """Read until the other side ends."""
    found = b""
    try:
        while piece := connection.recv(10_000):
            found += piece
    except ConnectionResetError:
        pass
    return found
