"""The control plane from both ends: what is asked and answered."""

from __future__ import annotations

import hashlib
import io
import os
import statistics
import time
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path

import pytest

from home.control_errors import (
    Garbled,
    Refused,
    Unreachable,
)
from model.control import ControlError, Problem
from relay.control import Request, Response
from tests.control_ends import Keys, hashed, serve_relay


def test_home_is_answered_and_a_connection_serves_many_requests(keys: Keys) -> None:
    with serve_relay(keys, hashed) as relay, relay.client(keys) as client:
        empty = hashlib.sha256().hexdigest()
        for number in range(3):
            answer = client.request("GET", f"/items?after={number}&more=%20")
            assert answer.message(Problem).problem == f"GET /items {{'after': '{number}', 'more': ' '}} 0 {empty}"
            assert client.send("PUT", "/x", Problem("y")).status == 200
        assert [one.home_epoch for one in relay.asked] == [3] * 6


def test_nobody_waits_for_an_acknowledgement_that_the_kernel_delays(keys: Keys, tmp_path: Path) -> None:
    path = tmp_path / "item"
    path.write_bytes(os.urandom(5_000))
    spent = []
    with serve_relay(keys, lambda _: Response(HTTPStatus.OK, path)) as relay, relay.client(keys) as client:
        for _ in range(30):
            began = time.monotonic()
            client.download("/items/x", io.BytesIO(), 5_000)
            spent.append(time.monotonic() - began)
    assert statistics.median(spent) < 0.035, "Linux delays it by 40 ms"


def test_large_bodies_are_streamed_in_both_directions(keys: Keys, tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.write_bytes(os.urandom(5_000_000))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()

    def handle(request: Request) -> Response:
        return Response(200, path) if request.method == "GET" else hashed(request)

    with serve_relay(keys, handle) as relay, relay.client(keys) as client:
        with path.open("rb") as file:
            assert f"5000000 {digest}" in client.request("PUT", "/bundle", file).message(Problem).problem
        taken = io.BytesIO()
        assert client.download("/items/1", taken, 5_000_000).length == 5_000_000
        assert taken.getvalue() == path.read_bytes()
        with pytest.raises(Garbled, match="expected 4999999 at most"):
            client.download("/items/1", io.BytesIO(), 4_999_999)


def test_pieces_that_end_early_are_no_whole_item(keys: Keys) -> None:
    def pieces() -> Iterator[bytes]:
        yield b"half"
        raise ValueError("the store has gone")

    def handle(_: Request) -> Response:
        return Response(200, pieces(), {"Content-Length": "8"})

    with serve_relay(keys, handle) as relay, relay.client(keys) as client, pytest.raises(Unreachable, match="hung up"):
        client.download("/items/1", io.BytesIO(), 100)


def test_a_file_that_has_gone_is_a_refusal_and_the_connection_goes_on(keys: Keys, tmp_path: Path) -> None:
    with serve_relay(keys, lambda _: Response(200, tmp_path / "gone")) as relay, relay.client(keys) as client:
        for _ in range(2):
            with pytest.raises(Refused, match="not there any more"):
                client.download("/items/1", io.BytesIO(), 10)


def test_a_body_that_nobody_reads_does_not_become_the_next_request(keys: Keys) -> None:
    with serve_relay(keys, lambda _: Response.refuse(422, "no")) as relay, relay.client(keys) as client:
        for _ in range(2):
            with pytest.raises(Refused, match="no"):
                client.request("PUT", "/settings", b"GET /second HTTP/1.1\r\n\r\n" * 20_000)
        assert [one.path for one in relay.asked] == ["/settings"] * 2


def test_a_fault_of_a_handler_is_told_in_the_log_only(keys: Keys, capfd: pytest.CaptureFixture[str]) -> None:
    def fail(_: Request) -> Response:
        raise RuntimeError("the inside of the relay")

    with serve_relay(keys, fail) as relay, relay.client(keys) as client:
        with pytest.raises(Refused) as refused:
            client.request("GET", "/state")
        assert refused.value.status == 500
        assert "inside" not in str(refused.value)
    assert "GET /state: RuntimeError: the inside of the relay" in capfd.readouterr().err


def test_a_message_that_is_none_is_the_askers_fault(keys: Keys) -> None:
    with (
        serve_relay(keys, lambda request: Response.of(request.message(Problem))) as relay,
        relay.client(keys) as client,
    ):
        for body in (b"", b"[]", b"\xff", b'{"other":1}', b"[" * 100_000):
            with pytest.raises(Refused) as refused:
                client.request("PUT", "/settings", body)
            assert refused.value.status == 400


@pytest.mark.parametrize("body", [b"", b"null", b"[1]", b"{", b"\xff\xfe"])
def test_what_is_no_message_is_refused(body: bytes) -> None:
    with pytest.raises(ControlError, match="Problem"):
        Problem.read(body)
