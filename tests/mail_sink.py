"""A small mail server for the tests of the drain: it takes a PROXY header, and answers as it is told."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from io import BufferedRWPair
from ipaddress import ip_address

_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"


@dataclass(frozen=True)
class Taken:
    """A message that was answered with 250."""

    client: str
    port: int
    helo: str
    sender: str
    recipients: tuple[str, ...]
    content: bytes

    @property
    def trace(self) -> str:
        """What home's drain has written on top."""
        name, _, value = self.content.partition(b"\r\n")[0].decode().partition(": ")
        assert name == "DarkPipe-Item"
        return value

    @property
    def message(self) -> bytes:
        """What is below that."""
        return self.content.partition(b"\r\n")[2]


@dataclass
class Sink:
    """The server; `taken` is what it has, in the order in which it came.

    Args:
        judge: gives the answer to a command line, or to the content, for which the line is `.`; empty to hang up
            instead, and None for the ordinary answer.
    """

    judge: Callable[[str], str | None] = lambda _line: None
    taken: list[Taken] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    _sessions: list[threading.Thread] = field(default_factory=list)
    _listener: socket.socket = field(init=False)

    def __post_init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._serve, daemon=True).start()

    @property
    def place(self) -> tuple[str, int]:
        """Where it listens."""
        host, port = self._listener.getsockname()
        return host, port

    def close(self) -> None:
        """Listen no more."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def traces(self) -> Sequence[str]:
        """Give what the drain would find if it looked."""
        return [taken.trace for taken in self.taken]

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            session = threading.Thread(target=self._session, args=(connection,), daemon=True)
            self._sessions.append(session)
            session.start()

    def wait_until_idle(self) -> None:
        """Wait for the ends of the sessions whose clients have gone."""
        for session in list(self._sessions):
            session.join(10)
            assert not session.is_alive()

    def _session(self, connection: socket.socket) -> None:
        try:
            with connection, connection.makefile("rwb") as file:
                _Session(self, file).run()
        except OSError:
            return
        finally:
            self._sessions.remove(threading.current_thread())


class _Session:
    def __init__(self, sink: Sink, file: BufferedRWPair) -> None:
        self._sink, self._file = sink, file

    def run(self) -> None:
        client, port = self._proxy()
        helo, sender, recipients = "", "", list[str]()
        if not self._say("220", "connect"):
            return
        while raw := self._file.readline():
            line = raw.decode().rstrip("\r\n")
            self._sink.lines.append(line)
            verb = line.partition(" ")[0].upper()
            given = line.partition("<")[2].partition(">")[0]
            answer = "221" if verb == "QUIT" else "354" if verb == "DATA" else "250"
            answer = self._say(answer, line)
            if not answer or verb == "QUIT":
                return
            match verb, answer[0]:
                case "EHLO", "2":
                    helo = line.partition(" ")[2]
                case "MAIL", "2":
                    sender, recipients = given, []
                case "RCPT", "2":
                    recipients.append(given)
                case "DATA", "3":
                    content = self._content()
                    taken = Taken(client, port, helo, sender, tuple(recipients), content)
                    judged = self._sink.judge(".")
                    # What is taken is taken, whether or not the answer arrives.
                    if judged is None or judged == "" or judged.startswith("2"):
                        self._sink.taken.append(taken)
                    if judged == "":
                        return
                    self._file.write(f"{judged or '250 2.0.0 taken'}\r\n".encode())
                    self._file.flush()

    def _say(self, answer: str, line: str) -> str:
        judged = self._sink.judge(line)
        text = answer if judged is None else judged
        if text:
            self._file.write(f"{text} so\r\n".encode() if len(text) == 3 else f"{text}\r\n".encode())
            self._file.flush()
        return text

    def _content(self) -> bytes:
        content = b""
        while (line := self._file.readline()) != b".\r\n":
            if not line:
                raise ConnectionResetError
            content += line[1:] if line.startswith(b".") else line
        return content

    def _proxy(self) -> tuple[str, int]:
        head = self._file.read(16)
        if head[:13] != _SIGNATURE + b"\x21":
            raise ConnectionResetError
        body = self._file.read(struct.unpack("!H", head[14:])[0])
        octets = 4 if head[13] == 0x11 else 16
        return str(ip_address(body[:octets])), struct.unpack("!H", body[2 * octets : 2 * octets + 2])[0]
