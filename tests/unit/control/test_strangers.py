"""The control plane from both ends: strangers, the slow, and whatever octets come."""

from __future__ import annotations

import io
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import home.control_client
import relay.control_request
import relay.control_server
from home.control_client import ControlClient, Home
from home.control_errors import (
    ControlFailure,
    Garbled,
    Unreachable,
)
from model.control import Problem
from model.control_tls import Pins
from relay.control import Request, Response
from tests.control_ends import HOME_ID, US, Keys, Listener, hashed, rest_of, serve_relay


def test_the_slow_are_cut_off_and_the_others_served(keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay.control_server, "_HANDSHAKE", 0.3)
    monkeypatch.setattr(relay.control_server, "_HEAD", 0.5)
    with serve_relay(keys, hashed) as place:
        with socket.create_connection(place.server.address) as silent:
            assert rest_of(silent) == b""
        slow = Pins(keys.home[0], keys.relay[1], server=False)
        with socket.create_connection(place.server.address) as plain, slow.context.wrap_socket(plain) as connection:
            began = time.monotonic()
            with pytest.raises(OSError):  # noqa: PT011  whichever the kernel gives
                _drip(connection, b"GET /state HTTP/1.1\r\nHost: relay\r\nX: " + b"x" * 200)
            assert time.monotonic() - began < 5
        with place.client(keys) as client:
            assert client.request("GET", "/state").status == 200


def test_more_than_there_is_room_for_are_sent_off(keys: Keys) -> None:
    with serve_relay(keys, hashed, most=2) as relay:
        held = [socket.create_connection(relay.server.address) for _ in range(2)]
        time.sleep(0.1)
        with relay.client(keys) as client, pytest.raises(Unreachable):
            client.request("GET", "/state")
        for one in held:
            one.close()
        time.sleep(0.1)
        with relay.client(keys) as client:
            assert client.request("GET", "/state").status == 200


def test_a_relay_that_drips_does_not_hold_home_up(keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(home.control_client, "_MESSAGE", 0.5)

    def pieces() -> Iterator[bytes]:
        for _ in range(300):
            yield b"x"
            time.sleep(0.02)

    with serve_relay(keys, lambda _: Response(200, pieces(), {"Content-Length": "300"})) as place:
        began = time.monotonic()
        with place.client(keys) as client, pytest.raises((Unreachable, Garbled)):
            client.request("GET", "/state")
        assert time.monotonic() - began < 3


def test_nobody_at_home_is_said_so(keys: Keys) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        place = listener.getsockname()
    client = ControlClient(place, US, Pins(keys.home[0], keys.relay[1], server=False))
    with pytest.raises(Unreachable, match="Connection refused"):
        client.request("GET", "/state")


def test_a_connection_that_the_relay_has_ended_is_made_anew(keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay.control_server, "_BETWEEN", 0.2)
    with serve_relay(keys, hashed) as place, place.client(keys) as client:
        assert client.request("GET", "/state").status == 200
        time.sleep(0.5)
        assert client.send("PUT", "/x", Problem("y")).status == 200


@given(octets=st.binary(max_size=400) | st.lists(st.sampled_from(
    [b"GET", b"PUT", b" ", b"/", b"/x?a=1&a=2", b"HTTP/1.1", b"\r\n", b"\n", b":", b"Host: x", b"Content-Length: 5",
     b"Content-Length: 99999999999", b"Content-Length: -1", b"Transfer-Encoding: chunked", b"Expect: 100-continue",
     b"DarkPipe-Protocol: 1", b"DarkPipe-Home-Epoch: 3", b"DarkPipe-Home: " + HOME_ID.encode(), b"\0", b"0\r\n\r\n",
     b"DarkPipe-Protocol: \xb2", b"5\r\nhello\r\n", b"x" * 20_000]), max_size=20).map(b"".join))  # fmt: skip
@settings(max_examples=150, deadline=None)
def test_no_octets_stop_the_listener_and_no_garbage_reaches_the_handler(octets: bytes) -> None:
    with _plain_relay() as relay:
        for half_open in (False, True):
            with socket.create_connection(relay.server.address) as plain:
                plain.settimeout(5)
                try:
                    plain.sendall(octets)
                    if not half_open:
                        plain.shutdown(socket.SHUT_WR)
                        answer = rest_of(plain)
                        assert answer == b"" or answer.startswith(b"HTTP/1.1 ")
                except OSError:  # it did not want to hear more
                    pass
        client = ControlClient(relay.server.address, US, None)
        assert client.request("GET", "/state").status == 200
        client.close()


@given(octets=st.binary(max_size=600))
@settings(max_examples=60, deadline=None)
def test_no_octets_before_the_handshake_stop_the_listener(octets: bytes, keys: Keys) -> None:
    with serve_relay(keys, hashed) as relay:
        with socket.create_connection(relay.server.address) as plain:
            plain.settimeout(5)
            try:
                plain.sendall(octets)
                plain.shutdown(socket.SHUT_WR)
                assert b"HTTP" not in rest_of(plain)
            except OSError:
                pass
        with relay.client(keys) as client:
            assert client.request("GET", "/state").status == 200


@contextmanager
def _answering(octets: bytes, times: int) -> Iterator[tuple[str, int]]:
    """Give the place of a relay that answers so many times, always the same, and then is asked no more."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            for _ in range(times):
                connection, _ = listener.accept()
                with connection:
                    connection.recv(10_000)
                    connection.sendall(octets)

        answering = threading.Thread(target=answer)
        answering.start()
        yield listener.getsockname()
        answering.join(10)
        assert not answering.is_alive()


@given(octets=st.binary(max_size=300) | st.lists(st.sampled_from(
    [b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 100 Continue\r\n\r\n", b"DarkPipe-Protocol: 1\r\n", b"DarkPipe-Protocol: 9\r\n",
     b"DarkPipe-Relay: 2\r\n", b"Content-Length: 5\r\n", b"Content-Length: 99999999\r\n", b"\r\n",
     b"Transfer-Encoding: chunked\r\n", b"ffffffff\r\n", b"hello", b"{}", b"\0", b"HTTP/1.1 409 x\r\n"]),
    max_size=12).map(b"".join))  # fmt: skip
@settings(max_examples=150, deadline=None)
def test_whatever_a_relay_answers_home_has_a_word_for_it(octets: bytes) -> None:
    with _answering(octets, 2) as place:
        client = ControlClient(place, Home(HOME_ID, 3, "2"), None)
        asks: Sequence[Callable[[], object]] = (
            partial(client.request, "GET", "/state"),
            partial(client.download, "/items/1", io.BytesIO(), 1000),
        )
        for ask in asks:
            with suppress(ControlFailure):  # any other error ends the test
                ask()
            client.close()


def test_a_number_that_nobody_can_read_is_garbage() -> None:
    """Python itself refuses such a one (sys.get_int_max_str_digits()), with an error that nobody expects here."""
    octets = b"HTTP/1.1 200 OK\r\nDarkPipe-Protocol: " + b"1" * 5000 + b"\r\nContent-Length: 2\r\n\r\n{}"
    with _answering(octets, 1) as place:
        client = ControlClient(place, US, None)
        with pytest.raises(Garbled):
            client.request("GET", "/state")
        client.close()


@contextmanager
def _plain_relay() -> Iterator[Listener]:
    def handle(request: Request) -> Response:
        assert request.method in {"GET", "PUT", "POST", "DELETE"}
        assert request.home_epoch == 3
        return hashed(request)

    with serve_relay(None, handle) as relay:
        yield relay


def _drip(connection: ssl.SSLSocket, octets: bytes) -> None:
    for octet in octets:
        connection.send(bytes([octet]))
        time.sleep(0.02)
    raise AssertionError("nobody has ended it")
