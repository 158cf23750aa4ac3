"""A relay that somebody has broken into: what it answers harms nobody at home."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import asdict, replace
from http import HTTPStatus
from io import BytesIO
from pathlib import Path
from typing import Any, cast

import pytest

import home.drain_run
from home.control_client import Answer, ControlClient
from home.control_errors import Fenced, Garbled, Refused, Unreachable
from home.relay_answers import sentence
from home.relay_queue import GoneError, NotNowError, RemoteQueue
from model.control import LARGEST_ITEM, BucketStatus, Fault, Page, QueuedItem, QueueSettings, QueueStatus
from model.envelope import LARGEST
from tests.drain import LocalRelay, make_drain
from tests.mail_sink import Sink

_ITEM = QueuedItem("0" * 32, 1, 100, 1_795_478_400_000, "f" * 64)
_PAGE = Page("e" * 32, (_ITEM,), more=False)
_STATUS = QueueStatus(
    1, "", "e" * 32, 1, 100, 5, 10**9, None, 1, 1, 0, (Fault(1, "a", "b"),), BucketStatus("f" * 32, 1, 2, 3)
)


class _Liar:
    """A relay that answers every request with the same."""

    def __init__(self, answer: Any) -> None:
        self._answer = json.dumps(answer).encode()

    def request(self, method: str, path: str, body: bytes = b"") -> Answer:
        del method, path, body
        return Answer(200, {}, self._answer)


def _queue(answer: Any) -> RemoteQueue:
    return RemoteQueue(cast("ControlClient", _Liar(answer)))


class _Refuses:
    """A relay that refuses every request."""

    def __init__(self, status: int) -> None:
        self._error = (Fenced if status == HTTPStatus.CONFLICT else Refused)(status, "no")

    def request(self, _method: str, _path: str) -> Answer:
        raise self._error

    def download(self, _path: str, _into: object, _largest: int) -> Answer:
        raise self._error


@pytest.mark.parametrize(
    ("status", "fetch", "delete"),
    [(404, GoneError, None), (502, GoneError, NotNowError), (503, NotNowError, NotNowError), (409, Fenced, Fenced)],
)
def test_a_refusal_is_about_one_item_or_not(
    status: int, fetch: type[Exception], delete: type[Exception] | None
) -> None:
    queue = RemoteQueue(cast("ControlClient", _Refuses(status)))
    with pytest.raises(fetch):
        queue.fetch(_ITEM, BytesIO())
    with pytest.raises(delete) if delete else nullcontext():
        queue.delete(_ITEM.id)


def test_what_an_honest_relay_says_is_taken() -> None:
    assert _queue(asdict(_PAGE)).page(0) == _PAGE
    assert _queue(asdict(_STATUS)).status() == _STATUS
    assert _queue(asdict(replace(_STATUS, bucket=None, oldest=None))).status().oldest is None


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("id", "../../queue-keys/identities"),
        ("id", "../journal"),
        ("id", "A" * 32),
        ("id", "0" * 32 + "\n"),
        ("id", 7),
        ("id", ["0" * 32]),
        ("sequence", "1"),
        ("sequence", 0),
        ("sequence", -5),
        ("sequence", 1.5),
        ("sequence", True),
        ("sequence", 10**30),
        ("size", LARGEST_ITEM + 1),
        ("size", 10**15),
        ("size", -1),
        ("size", None),
        ("received", 10**30),
        ("sha256", "F" * 64),
        ("sha256", None),
    ],
)
def test_an_item_that_is_none_is_not_taken(field: str, value: object) -> None:
    page = asdict(_PAGE)
    page["items"][0][field] = value
    with pytest.raises(Garbled):
        _queue(page).page(0)


@pytest.mark.parametrize(("field", "value"), [("epoch", ["e"]), ("epoch", "../e"), ("more", "yes")])
def test_a_page_that_is_none_is_not_taken(field: str, value: object) -> None:
    with pytest.raises(Garbled):
        _queue({**asdict(_PAGE), field: value}).page(0)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epoch", 5),
        ("octets", "many"),
        ("count", -1),
        ("oldest", 10**17),
        ("drained", "never"),
        ("overdue", None),
        ("software", 5),
        ("faults", [{"since": "x", "found": "a", "remedy": "b"}]),
        ("bucket", {"folder": "../../x", "version": 1, "written": 1, "octets": 1}),
        ("bucket", {"folder": "f" * 32, "version": 10**40, "written": 1, "octets": 1}),
    ],
)
def test_a_status_that_is_none_is_not_taken(field: str, value: object) -> None:
    with pytest.raises(Garbled):
        _queue({**asdict(_STATUS), field: value}).status()


def test_the_sentences_of_a_relay_do_not_write_on_a_terminal() -> None:
    fault = {"since": 1, "found": "\x1b]0;owned\x07\x1b[2J" + "x" * 10_000, "remedy": "\x1b[31m"}
    found = _queue({**asdict(_STATUS), "faults": [fault] * 1000}).status().faults
    assert len(found) < 100
    assert all("\x1b" not in text and len(text) < 1000 for one in found for text in (one.found, one.remedy))
    assert sentence(None) == "None"


def test_the_largest_item_has_room_for_the_largest_message_with_the_largest_envelope() -> None:
    settings = QueueSettings(1, "mx.example.com", ("example.com",), "queue", (), 1)
    whole = settings.largest + LARGEST
    assert whole + whole // 4096 + 100_000 < LARGEST_ITEM  # age adds 16 octets to 64 KiB, and a head


def _drain_of(relay: object, folder: Path, sink: Sink) -> Any:
    return make_drain(folder, relay, sink)


def test_a_list_without_an_end_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Endless(LocalRelay):
        def page(self, after: int) -> Page:
            items = (replace(_ITEM, id=f"{after + number:032x}", sequence=after + number) for number in range(1, 11))
            return Page("e" * 32, tuple(items), more=True)

    monkeypatch.setattr(home.drain_run, "_MOST_LISTED", 50)
    monkeypatch.setattr(home.drain_run, "MOST_REFUSED", 10**9)
    sink = Sink()
    try:
        with pytest.raises(Garbled, match="more than 50"):
            _drain_of(Endless(tmp_path / "relay"), tmp_path / "home", sink).round()
    finally:
        sink.close()


@pytest.mark.parametrize("error", [Unreachable("gone"), OSError(28, "full")])
def test_what_is_cut_off_leaves_nothing_on_the_disk(tmp_path: Path, error: Exception) -> None:
    class CutOff(LocalRelay):
        def fetch(self, item: QueuedItem, into: Any) -> str:
            into.write(b"x" * item.size)
            raise error

    relay, sink = CutOff(tmp_path / "relay"), Sink()
    relay.keep()
    try:
        with pytest.raises(type(error)):
            _drain_of(relay, tmp_path / "home", sink).round()
        assert not list((tmp_path / "home" / "incoming").iterdir())
    finally:
        sink.close()
