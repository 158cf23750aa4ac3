"""A client for ManageSieve (RFC 5804), as small as the tests need it."""

from __future__ import annotations

import base64
import re
import socket
from typing import Self

from tests.mail import any_certificate


class SieveError(Exception):
    """The server has said NO or BYE; the text is what it said."""


class SieveSession:
    """One session, in the clear at first.

    Raises:
        OSError: the server takes no connection.
        SieveError: it does not greet.
    """

    def __init__(self, host: str, port: int = 4190) -> None:
        self._socket: socket.socket = socket.create_connection((host, port), 30)
        self._reader = self._socket.makefile("rb")
        self.capabilities = self._capabilities(self._response())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._reader.close()
        self._socket.close()

    def start_tls(self) -> None:
        """Go on under TLS (RFC 5804 §2.2)."""
        self.command("STARTTLS")
        self._reader.close()
        self._socket = any_certificate().wrap_socket(self._socket)
        self._reader = self._socket.makefile("rb")
        self.capabilities = self._capabilities(self._response())

    def login(self, user: str, password: str) -> None:
        """Log in with PLAIN."""
        answer = base64.b64encode(f"\0{user}\0{password}".encode()).decode()
        self.command(f'AUTHENTICATE "PLAIN" "{answer}"')

    def put(self, name: str, script: str) -> None:
        """Upload a script."""
        content = script.encode()
        self.command(f'PUTSCRIPT "{name}" {{{len(content)}+}}\r\n{script}')

    def activate(self, name: str) -> None:
        """Make a script the one that is run; an empty name for none."""
        self.command(f'SETACTIVE "{name}"')

    def command(self, text: str) -> str:
        """Send a command and give what the server says before OK.

        Raises:
            SieveError: it says NO or BYE.
        """
        self._socket.sendall(text.encode() + b"\r\n")
        return self._response()

    def _response(self) -> str:
        lines = ""
        while True:
            line = self._reader.readline().decode()
            if not line:
                raise SieveError("the connection was closed")
            while literal := re.search(r"\{(\d+)\}\r\n$", line):
                line += self._reader.read(int(literal[1])).decode() + self._reader.readline().decode()
            if re.match(r"OK\b", line):
                return lines
            if re.match(r"(NO|BYE)\b", line):
                raise SieveError(line.strip())
            lines += line

    @staticmethod
    def _capabilities(text: str) -> dict[str, str]:
        return dict(re.findall(r'^"([^"]*)"(?: "([^"]*)")?\r$', text, re.MULTILINE))
