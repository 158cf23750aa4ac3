"""A client that says to a relay's Postfix exactly what a test wants, behind a PROXY header as HAProxy sends."""

from __future__ import annotations

import socket
import ssl
import struct
from ipaddress import ip_address
from typing import Self

from tests import mail
from tests.network.net import Namespace

_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"


def proxy_header(client: str, port: int = 4711) -> bytes:
    """Write a header of the PROXY protocol, version 2 (HAProxy's proxy-protocol.txt, §2.2)."""
    server = "2001:db8::1" if ":" in client else "203.0.113.1"
    ends = ip_address(client).packed + ip_address(server).packed + struct.pack("!HH", port, 25)
    family = 0x21 if ":" in client else 0x11
    return _SIGNATURE + bytes((0x21, family)) + struct.pack("!H", len(ends)) + ends


class Smuggler:
    """One session.

    Args:
        client: its address.
    """

    def __init__(self, place: Namespace, client: str, port: int = 10024) -> None:
        self._socket: socket.socket = place.call(socket.create_connection, ("127.0.0.1", port), 60)
        self._socket.sendall(proxy_header(client))
        self._held = b""
        self.greeting = self.reply()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def start_tls(self) -> None:
        """Go on inside of TLS."""
        assert self.say("EHLO sender.example.net").startswith("250")
        assert self.say("STARTTLS").startswith("220")
        context = mail.any_certificate()
        assert context.verify_mode is ssl.CERT_NONE
        self._socket = context.wrap_socket(self._socket)

    def put(self, octets: bytes) -> None:
        """Send octets as they are."""
        self._socket.sendall(octets)

    def say(self, line: str) -> str:
        """Send a command, and give the answer to it."""
        self.put(line.encode() + b"\r\n")
        return self.reply()

    def reply(self) -> str:
        """Wait for an answer, and give it with all its lines; what is empty is a hang-up."""
        lines: list[str] = []
        while True:
            while b"\n" not in self._held:
                if not (more := self._socket.recv(4096)):
                    return "\n".join(lines)
                self._held += more
            line, _, self._held = self._held.partition(b"\n")
            lines.append(line.decode("utf-8", "replace").rstrip("\r"))
            if lines[-1][3:4] != "-":
                return "\n".join(lines)
