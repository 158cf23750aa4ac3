"""Probes against servers that work, that answer wrongly, and that take a connection and stay silent."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from stack.component import Health, Service
from stack.health import examine
from stack.probes import ProbeError, ProbeKind, probe
from stack.stack import Stack
from tests.unit.stack_samples import sample_stack

_SILENCE = 0.3

Talk = Callable[[socket.socket], None]


@contextmanager
def _server(address: tuple[str, int] | str, talk: Talk) -> Iterator[str]:
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    with socket.socket(family) as listener:
        listener.bind(address)
        listener.listen()
        target = address if isinstance(address, str) else "{}:{}".format(*listener.getsockname())

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                talk(connection)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield target
        thread.join(5)


def _dialogue(*answers: tuple[bytes, bytes]) -> Talk:
    """Talk like a mail server: the greeting, then for each beginning of a command its answer."""

    def talk(connection: socket.socket) -> None:
        reader = connection.makefile("rb")
        connection.sendall(answers[0][1])
        for line in reader:
            for command, answer in answers[1:]:
                if line.upper().startswith(command):
                    connection.sendall(answer)
                    break
            else:
                connection.sendall(b"221 bye\r\n")
                return

    return talk


def _smtp(recipient: bytes = b"250 2.1.5 Ok\r\n", hello: bytes = b"250-mx\r\n250 STARTTLS\r\n") -> Talk:
    return _dialogue(
        (b"", b"220 mx ESMTP\r\n"), (b"EHLO", hello), (b"HELO", b"250 mx\r\n"), (b"MAIL", b"250 Ok\r\n"),
        (b"RCPT", recipient), (b"RSET", b"250 Ok\r\n"),
    )  # fmt: skip


def _lmtp(recipient: bytes) -> Talk:
    return _dialogue((b"", b"220 home\r\n"), (b"LHLO", b"250 home\r\n"), (b"MAIL", b"250 Ok\r\n"), (b"RCPT", recipient))


def _says(answer: bytes) -> Talk:
    def talk(connection: socket.socket) -> None:
        connection.recv(100)
        connection.sendall(answer)

    return talk


def _greets(greeting: bytes) -> Talk:
    return lambda connection: connection.sendall(greeting)


def _silent(connection: socket.socket) -> None:
    # Until the other side has given up.
    while connection.recv(4096):
        pass


_NEGOTIATED = struct.pack("!IcIII", 13, b"O", 6, 0, 0)

_WORKING = [
    (ProbeKind.SMTP, _smtp()),
    (ProbeKind.SMTP, _smtp(b"452 4.2.2 mailbox full\r\n")),
    (ProbeKind.LMTP, _lmtp(b"550 5.1.1 no such user\r\n")),
    (ProbeKind.MILTER, _says(_NEGOTIATED)),
    (ProbeKind.VALKEY, _says(b"+PONG\r\n")),
    (ProbeKind.SRS, _says(b"200 SRS0=aaaa=bb=invalid=nobody@mx.example.com\n")),
    (ProbeKind.SRS, _says(b"500 no such address\n")),
]

_BROKEN = [
    (ProbeKind.SMTP, _smtp(b"452 4.3.1 insufficient space\r\n"), "expected 250, found 452 4.3.1"),
    (ProbeKind.SMTP, _smtp(hello=b"250 mx\r\n"), "expected STARTTLS"),
    (ProbeKind.SMTP, _greets(b"554 no\r\n"), "554"),
    (ProbeKind.SMTP, _greets(b""), "closed"),
    (ProbeKind.LMTP, _lmtp(b"451 4.3.0 internal error\r\n"), "expected 550, found 451"),
    (ProbeKind.LMTP, _lmtp(b"250 2.1.5 Ok\r\n"), "expected 550, found 250"),
    (ProbeKind.MILTER, _says(struct.pack("!Ic", 1, b"t")), "expected an option negotiation"),
    (ProbeKind.MILTER, _says(_NEGOTIATED[:3]), "closed before the answer"),
    (ProbeKind.VALKEY, _says(b"-LOADI\r\n"), "expected PONG"),
    (ProbeKind.SRS, _says(b"400 try again\n"), "expected 200 or 500, found 400"),
    (ProbeKind.SRS, _says(b"500 no lin"), "expected 200 or 500, found 500 no lin"),
    (ProbeKind.SRS, _says(b""), "found nothing"),
]


def _address(kind: ProbeKind, folder: Path) -> tuple[str, int] | str:
    over_unix = kind in {ProbeKind.LMTP, ProbeKind.MILTER, ProbeKind.VALKEY}
    return str(folder / "socket") if over_unix else ("127.0.0.1", 0)


@pytest.mark.parametrize(("kind", "talk"), _WORKING)
def test_a_service_that_works_is_good(kind: ProbeKind, talk: Talk, tmp_path: Path) -> None:
    with _server(_address(kind, tmp_path), talk) as target:
        assert probe(kind, target)


@pytest.mark.parametrize(("kind", "talk", "complaint"), _BROKEN)
def test_a_wrong_answer_is_told(kind: ProbeKind, talk: Talk, complaint: str, tmp_path: Path) -> None:
    with _server(_address(kind, tmp_path), talk) as target, pytest.raises(ProbeError) as caught:
        probe(kind, target)
    assert target in str(caught.value)
    assert complaint in str(caught.value)


@pytest.mark.parametrize("kind", ProbeKind)
def test_an_open_port_proves_nothing(kind: ProbeKind, tmp_path: Path) -> None:
    if kind is ProbeKind.DNS:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
            listener.bind(("127.0.0.1", 0))
            with pytest.raises(ProbeError, match="no answer within"):
                probe(kind, "{}:{}".format(*listener.getsockname()), _SILENCE)
        return
    with _server(_address(kind, tmp_path), _silent) as target, pytest.raises(ProbeError, match="no answer within"):
        probe(kind, target, _SILENCE)


@pytest.mark.parametrize("kind", [kind for kind in ProbeKind if kind is not ProbeKind.DNS])
def test_nobody_there_is_told(kind: ProbeKind, tmp_path: Path) -> None:
    address = _address(kind, tmp_path)
    with pytest.raises(ProbeError):
        probe(kind, address if isinstance(address, str) else "127.0.0.1:1", _SILENCE)


def test_one_that_answers_drop_by_drop_holds_nobody_up(tmp_path: Path) -> None:
    over = threading.Event()

    def drip(connection: socket.socket) -> None:
        while not over.wait(0.05):
            connection.sendall(b"2")

    stack = sample_stack(tmp_path)
    with _server(("127.0.0.1", 0), drip) as target:
        dripping = Service(name="one", health=(Health(probe=ProbeKind.SMTP, target=target, to_receive=True),))
        component = stack.components[0].model_copy(update={"services": (dripping,)})
        started = time.monotonic()
        (finding,) = examine(Stack((component,)), patience=5, deadline=0.3)
        assert time.monotonic() - started < 3
        over.set()
    assert not finding.good
    assert "not done within" in finding.text
