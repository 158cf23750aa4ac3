"""What serves the pages: whom it waits for and how long, by which names it is meant, and where plain HTTP leads."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from starlette.applications import Starlette

from firstboot.page.app import make_app
from firstboot.page.certificate import PATH, ensure_page_certificate
from firstboot.unlock_socket import UnlockClient
from tests.unit.browser import HOST, Browser
from web.lan import is_ours
from web.plain import plain_app
from web.server import listening_socket, server


@pytest.fixture
def app(tmp_path: Path) -> Starlette:
    """Pages; nobody is behind them."""
    return make_app(UnlockClient(tmp_path / "nobody"), lambda: "darkpipe")


def test_what_names_a_length_and_comes_in_chunks_is_not_read(app: Starlette) -> None:
    # The server under the page goes by the chunks (RFC 9112 §6.3), however little is announced.
    with socket.create_server(("127.0.0.1", 0)) as listening:
        made = server(app, None)
        thread = threading.Thread(target=made.run, args=([listening],), daemon=True)
        thread.start()
        with socket.create_connection(listening.getsockname(), timeout=10) as stranger:
            head = f"POST /unlock HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/x-www-form-urlencoded\r\n"
            stranger.sendall(f"{head}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
            stranger.sendall(b"2328\r\n" + b"x" * 0x2328 + b"\r\n0\r\n\r\n")
            answer = stranger.recv(4096)
        made.should_exit = True
        thread.join(10)
    assert b" 411 " in answer.splitlines()[0]


@pytest.mark.parametrize(
    "begun",
    [
        [],
        [b"GET / HTTP/1.1\r\nHost: "],
        [b"POST /unlock HTTP/1.1\r\nHost: 192.168.1.20\r\nContent-Length: 9\r\n\r\nt"],
        [b"GET /page.js HTTP/1.1\r\nHost: 192.168.1.20\r\n\r\n", b"GET /"],
    ],
)
def test_who_does_not_ask_takes_nobodys_place(
    app: Starlette, begun: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("web.server.PATIENCE", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        made = server(app, None)
        thread = threading.Thread(target=made.run, args=([listening],), daemon=True)
        thread.start()
        with socket.create_connection(listening.getsockname(), timeout=3) as stranger:
            for part in begun:
                stranger.sendall(part)
                if part is not begun[-1]:
                    assert stranger.recv(65536)
            while stranger.recv(4096):
                pass
        made.should_exit = True
        thread.join(10)


def test_who_does_not_read_the_answers_is_hung_up_on(app: Starlette, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("web.server.PATIENCE", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as listening, socket.socket() as deaf:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        made = server(app, None)
        thread = threading.Thread(target=made.run, args=([listening],), daemon=True)
        thread.start()
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.connect(listening.getsockname())
        deaf.sendall(f"GET /style.css HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode() * 40)
        time.sleep(0.1)
        assert len(made.server_state.connections) == 1
        end = time.monotonic() + 5
        while made.server_state.connections:
            assert time.monotonic() < end, "it is still there"
            time.sleep(0.05)
        made.should_exit = True
        thread.join(10)


def _is_taken(where: tuple[str, int]) -> bool:
    with socket.create_connection(where, timeout=0.2) as silent:
        try:
            return bool(silent.recv(1))
        except TimeoutError:
            return True


@pytest.mark.parametrize("secure", [False, True])
def test_one_neighbours_connections_leave_room_for_others(app: Starlette, tmp_path: Path, secure: bool) -> None:
    """Nor do those that never begin with TLS use up the files that the page may have open (LimitNOFILE=)."""
    ensure_page_certificate(tmp_path)
    with ExitStack() as stack:
        listening = stack.enter_context(listening_socket(0))
        made = server(app, tmp_path / PATH if secure else None)
        thread = threading.Thread(target=made.run, args=([listening],), daemon=True)
        thread.start()
        where = ("127.0.0.1", listening.getsockname()[1])
        silent = [stack.enter_context(socket.create_connection(where, timeout=10)) for _ in range(40)]
        other = socket.create_connection(where, timeout=10, source_address=("127.0.0.2", 0))
        if secure:
            other = ssl._create_unverified_context().wrap_socket(other)
        stack.enter_context(other)
        other.sendall(f"GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())
        assert b" 200 " in other.recv(4096).splitlines()[0]
        assert [one.recv(1) for one in silent[12:]] == [b""] * 28, "they were hung up on"
        silent[0].close()
        assert any(_is_taken(where) for _ in range(50)), "there is room again"
        for one in (*silent, other):
            one.close()
        while any(one.fileno() >= 0 for rows in vars(listening)["_taken"].values() for one in rows):
            time.sleep(0.01)
        made.should_exit = True
        made.force_exit = True
        thread.join(10)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("192.168.1.20", True),
        ("192.168.1.20:4443", True),
        ("[fe80::1]:443", True),
        ("[fd00::1]", True),
        ("darkpipe", True),
        ("DARKPIPE.local:443", True),
        ("darkpipe.fritz.box.", True),
        ("darkpipe.evil.example", False),
        ("evil.example", False),
        ("192.168.1.20.evil.example", False),
        ("", False),
    ],
)
def test_who_is_meant(host: str, expected: bool) -> None:
    assert is_ours(host, "darkpipe") is expected


@pytest.mark.parametrize(
    ("host", "place"),
    [
        (HOST, f"https://{HOST}/"),
        (f"{HOST}:80", f"https://{HOST}/"),
        ("[fd00::1]", "https://[fd00::1]/"),
        ("[fd00::1]:80", "https://[fd00::1]/"),
        ("darkpipe.local", "https://darkpipe.local/"),
        ("evil.example", None),
    ],
)
def test_plain_http_leads_to_https_and_nowhere_else(host: str, place: str | None) -> None:
    browser = Browser(plain_app(lambda: "darkpipe"))
    for path in ("/", "/dns", "//evil.example/"):
        answer = browser.get(path, host)
        assert (answer.status, answer.headers.get("location")) == ((307, place) if place else (421, None))
    assert browser.post("/claim", code="1").status == 405
    assert Browser(plain_app(lambda: "darkpipe"), "203.0.113.9").get().status == 403
