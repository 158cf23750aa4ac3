"""Stands for a large provider's mail server: it says in its greeting where it is called from."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tests.network.net import Namespace


@contextmanager
def greeter(place: Namespace, address: str) -> Iterator[list[str]]:
    """Serve port 25 at an address; gives the commands that it was told. It takes no mail.

    Args:
        place: the network that has the address.
    """
    told: list[str] = []

    def serve() -> None:
        while True:
            try:
                connection, (client, *_) = listener.accept()
            except OSError:
                return
            with connection, connection.makefile("rwb") as stream:
                stream.write(b"220 mx.provider.example ESMTP\r\n")
                stream.flush()
                for line in stream:
                    told.append(line.decode().strip())
                    stream.write(f"250 mx.provider.example at your service, [{client}]\r\n".encode())
                    stream.flush()

    with place.call(socket.create_server, (address, 25)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield told
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(5)
