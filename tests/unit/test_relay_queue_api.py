"""What the queue answers to home, without sockets."""

from __future__ import annotations

import os
import socket
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import TypeVar

import pyrage
import pytest

from model.control import Message, Page, QueuedItem, QueueSettings, QueueStatus
from model.recipients import DomainRule, RecipientList
from relay.control import Request, Response
from relay.envelope import envelope_of
from relay.place import LostError, Place, PlaceError
from relay.queue import RECIPIENTS, SETTINGS, Queue
from relay.queue_api import PAGE, QueueApi
from relay.reception import converse
from relay.smtp import Mail, Recipient
from relay.spool import Spool, SpoolError

_KEY = str(pyrage.x25519.Identity.generate().to_public())
_MAIL = Mail("a@example.net", None, utf8=False, parameters={}, client={})
_ENVELOPE = envelope_of(_MAIL, [Recipient("alice@example.com", {})], 1_795_478_400_000)


class _Nothing:
    length = 0

    def read(self, _size: int, /) -> bytes:
        return b""


class _Clock:
    now = 1_795_478_400.0

    def __call__(self) -> float:
        return self.now


def _no_place(_settings: object, _epoch: str) -> Place:
    raise ValueError("none here")


class _Relay:
    def __init__(self, folder: Path, budget: int = 10**9) -> None:
        self.folder, self.clock = folder, _Clock()
        (folder / "queue").mkdir(exist_ok=True)
        settings = QueueSettings(7, "mx.example.com", ("example.com",), "queue", (_KEY,), budget)
        (folder / SETTINGS).write_bytes(settings.to_json())
        self.start()

    def start(self) -> None:
        self.queue = Queue(self.folder, self.folder / "queue", _no_place, self.clock, "bundle")
        self.api = QueueApi(self.queue.spool, self.queue.presence, self.queue.status)

    def ask(self, method: str, path: str, **query: str) -> Response:
        return self.api(Request(method, path, _Nothing(), query))

    def keep(self, octets: int = 100) -> QueuedItem:
        return self.queue.spool.store(_ENVELOPE, BytesIO(b"x" * octets))

    def status(self) -> QueueStatus:
        return _read(self.ask("GET", "/status"), QueueStatus)


_M = TypeVar("_M", bound=Message)


def _read(answer: Response, kind: type[_M]) -> _M:
    assert isinstance(answer.body, bytes)
    return kind.read(answer.body)


@pytest.fixture
def relay(tmp_path: Path) -> _Relay:
    return _Relay(tmp_path)


def test_what_waits_is_told_in_pages(relay: _Relay, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relay.queue_api.PAGE", 2)
    kept = [relay.keep() for _ in range(5)]
    found: list[QueuedItem] = []
    more = True
    while more:
        page = _read(relay.ask("GET", "/items", after=str(found[-1].sequence if found else 0)), Page)
        found += page.items
        more = page.more
        assert page.epoch == relay.queue.spool.epoch
    assert found == kept


def test_a_full_page_fits_into_a_message(relay: _Relay) -> None:
    item = QueuedItem("f" * 32, 10**12 - 1, 10**12, 10**13, "f" * 64)
    page = Page("f" * 32, (item,) * PAGE, more=True)
    client_limit = 256 * 1024
    assert len(page.to_json()) < client_limit
    assert relay.ask("GET", "/items").headers["DarkPipe-Queue-Epoch"] == relay.queue.spool.epoch


def test_an_item_is_a_file_and_is_gone_after_its_removal(relay: _Relay) -> None:
    item = relay.keep(1000)
    answer = relay.ask("GET", f"/items/{item.id}")
    assert isinstance(answer.body, Path)
    assert (answer.status, answer.body.stat().st_size) == (200, item.size)
    assert relay.ask("DELETE", f"/items/{item.id}").status == 204
    for method in ("GET", "DELETE"):
        assert relay.ask(method, f"/items/{item.id}").status == 404


@pytest.mark.parametrize(
    ("failure", "status"), [(PlaceError("away"), 503), (LostError("lost"), 502), (SpoolError("broken"), 503)]
)
def test_what_cannot_be_had_is_told(
    relay: _Relay, monkeypatch: pytest.MonkeyPatch, failure: Exception, status: int
) -> None:
    def fail(_spool: Spool, _name: str) -> None:
        raise failure

    monkeypatch.setattr(Spool, "open", fail)
    monkeypatch.setattr(Spool, "remove", fail)
    for method in ("GET", "DELETE"):
        answer = relay.ask(method, f"/items/{'0' * 32}")
        assert answer.status == status
        assert isinstance(answer.body, bytes)
        assert str(failure).encode() in answer.body


@pytest.mark.parametrize(
    ("method", "path", "query", "status"),
    [
        ("GET", "/items/../settings.json", {}, 404),
        ("GET", "/items/..", {}, 404),
        ("GET", "/", {}, 404),
        ("GET", "/items/", {}, 404),
        ("GET", "/items/a/b", {}, 404),
        ("POST", "/items", {}, 405),
        ("PUT", f"/items/{'0' * 32}", {}, 405),
        ("DELETE", "/status", {}, 405),
        ("GET", "/items", {"after": "-1"}, 400),
        ("GET", "/items", {"after": "\u0661"}, 400),
        ("GET", "/items", {"after": "9" * 5000}, 400),
        ("GET", "/items", {"after": ""}, 400),
    ],
)
def test_what_makes_no_sense_is_refused(
    relay: _Relay, method: str, path: str, query: dict[str, str], status: int
) -> None:
    assert relay.ask(method, path, **query).status == status


def test_the_status_tells_what_waits_and_when_home_was_there(relay: _Relay) -> None:
    status = relay.status()
    assert (status.count, status.oldest, status.drained) == (0, None, None)
    assert (status.settings, status.recipients, status.budget, status.software) == (7, 0, 10**9, "bundle")
    first = relay.keep(1000)
    relay.keep()
    status = relay.status()
    assert (status.count, status.oldest) == (2, _ENVELOPE.received)
    assert status.octets == sum(item.size for item in relay.queue.spool.items())
    relay.clock.now += 500
    relay.ask("DELETE", f"/items/{first.id}")
    assert relay.status().drained == relay.clock.now * 1000
    relay.start()
    assert relay.status().drained == relay.clock.now * 1000


def test_a_budget_that_is_nearly_used_up_is_a_fault_once(tmp_path: Path) -> None:
    relay = _Relay(tmp_path, budget=100_000)
    assert relay.status().faults == ()
    item = relay.keep(90_000)
    (fault,) = relay.status().faults
    assert "90 %" in fault.found
    relay.clock.now += 100
    assert relay.status().faults == (fault,)
    relay.ask("DELETE", f"/items/{item.id}")
    assert relay.status().faults == ()


def test_settings_that_cannot_be_read_are_a_fault_and_change_nothing(relay: _Relay) -> None:
    good = (relay.folder / SETTINGS).read_bytes()
    for wrong in (b"", b"{}", b"\xff", good.replace(b'"queue"', b'"drop"'), good.replace(_KEY.encode(), b"age1x")):
        (relay.folder / SETTINGS).write_bytes(wrong)
        relay.queue.reload()
        status = relay.status()
        assert [SETTINGS in fault.found for fault in status.faults] == [True]
        assert status.settings == 7
    (relay.folder / SETTINGS).write_bytes(good)
    relay.queue.reload()
    assert relay.status().faults == ()


def test_a_disk_that_has_gone_does_not_keep_home_from_asking(relay: _Relay, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("gone")

    with monkeypatch.context() as patch:
        patch.setattr(os, "utime", fail)
        assert relay.ask("GET", "/items").status == 200


def test_a_message_that_is_as_large_as_allowed_is_kept_with_what_postfix_puts_on_top(tmp_path: Path) -> None:
    relay = _Relay(tmp_path)
    assert relay.queue.settings
    largest = 10_000
    (tmp_path / SETTINGS).write_bytes(replace(relay.queue.settings, version=8, largest=largest).to_json())
    (tmp_path / RECIPIENTS).write_text(RecipientList.make(1, {"example.com": DomainRule(catch_all=True)}, []).text())
    relay.queue.reload()
    received = (
        b"Received: from sender.example.net (unknown [192.0.2.7])\r\n\tby mx.example.com (Postfix) with ESMTP\r\n"
    )
    said = b"EHLO x\r\nMAIL FROM:<> SIZE=%d\r\nRCPT TO:<alice@example.com>\r\nDATA\r\n" % largest
    near, far = socket.socketpair()
    with near, far:
        near.sendall(said + received + b"x" * (largest - 2) + b"\r\n.\r\nQUIT\r\n")
        converse(far, relay.queue.terms(), relay.queue.spool)
        far.shutdown(socket.SHUT_RDWR)
        answers = near.makefile().read().splitlines()
    assert answers[-2].startswith("250 2.0.0 Kept"), answers
