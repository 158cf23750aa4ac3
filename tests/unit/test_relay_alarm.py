"""Alarms: once per episode, daily while it lasts, and the all-clear; what did not reach anybody is tried again."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from dataclasses import replace
from http.client import BadStatusLine, HTTPException, IncompleteRead
from http.server import BaseHTTPRequestHandler, HTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any

import pyrage
import pytest

from model.control import QueueSettings
from model.envelope import Envelope
from relay.alarm import AGAIN, Alarm, Kind, Told, after, due, post_https
from relay.delivery import LaterError
from relay.expiry import Expiry
from relay.facts import FactsFolder
from relay.presence import Presence, Sign
from relay.spool import Spool
from relay.watch import Watch

_KEY = str(pyrage.x25519.Identity.generate().to_public())
_HOUR = 3600.0
_BOTH = {"webhook": "https://hooks.example/x", "mail": "me@elsewhere.example"}
_ENVELOPE = Envelope("a@example.net", (("alice@example.com", {}),), False, {}, {}, 0)


def test_an_alarm_is_told_once_then_daily_and_its_end() -> None:
    told, sentence = Told({}), {Kind.AWAY: "away"}
    for now, holds, count in (
        (0.0, {Kind.AWAY: None}, 0),
        (1.0, sentence, 1),
        (2.0, sentence, 0),
        (1.0 + AGAIN, sentence, 1),
        (2.0 + AGAIN, {Kind.AWAY: None}, 1),
        (3.0 + AGAIN, {Kind.AWAY: None}, 0),
        (4.0 + AGAIN, sentence, 1),
        (-(10.0**6), sentence, 1),  # a clock that was set back silences nothing
    ):
        found = due(told, holds, now)
        assert len(found) == count, now
        for alarm in found:
            told = after(told, alarm, now)
    assert Told.read(told.to_json()) == told


@pytest.mark.parametrize("wrong", [b"", b"{}", b"[]", b'{"times": 1}', b'{"times": {"away": "x"}}'])
def test_a_damaged_memory_forgets(wrong: bytes) -> None:
    assert Told.read(wrong) == Told({})


class _Relay:
    def __init__(self, folder: Path, alarm: Mapping[str, str]) -> None:
        self.folder, self.now = folder, 1_795_478_400.0
        self.settings = QueueSettings(1, "mx.example.com", (), "queue", (_KEY,), 100_000, alarm=alarm, away=24 * 3600)
        self.failure: Exception | None = None
        self.posted: list[dict[str, Any]] = []
        self.mailed: list[tuple[bytes, str, str]] = []
        self.start()

    def start(self) -> None:
        self.spool = Spool(self.folder, [_KEY], 100_000)
        self.presence = Presence(self.folder, lambda: self.now)
        self.facts = FactsFolder(self.folder)
        expiry = Expiry(self.spool, self.facts, self.mail, lambda: self.now)
        self.watch = Watch(self.spool, self.presence, expiry, self.folder, lambda: self.now, self.mail, self.post)

    def post(self, url: str, content: bytes) -> None:
        if isinstance(self.failure, OSError | HTTPException):
            raise self.failure
        assert url == _BOTH["webhook"]
        self.posted.append(json.loads(content))

    def mail(self, message: bytes, sender: str, recipient: str, _name: str) -> None:
        if isinstance(self.failure, LaterError):
            raise self.failure
        self.mailed.append((message, sender, recipient))

    def look(self, hours: float = 0) -> None:
        self.now += hours * _HOUR
        self.watch.look(self.settings)


def test_the_owner_hears_that_home_is_away_and_that_it_is_back(tmp_path: Path) -> None:
    relay = _Relay(tmp_path, _BOTH)
    relay.presence.note(Sign.SEEN)
    relay.look(23)
    assert relay.posted == []
    relay.look(2)
    relay.look(1)
    ((posted),) = relay.posted
    assert (posted["relay"], posted["alarm"], posted["over"]) == ("mx.example.com", "away", False)
    assert "25 hours" in posted["text"]
    ((message, sender, recipient),) = relay.mailed
    assert (sender, recipient) == ("relay@mx.example.com", "me@elsewhere.example")
    assert b"Subject: mx.example.com: alarm: home has been away for 25 hours" in message
    relay.start()  # a restart tells nothing twice
    relay.look(1)
    assert len(relay.posted) == 1
    relay.look(23)
    assert len(relay.posted) == 2
    relay.presence.note(Sign.SEEN)
    relay.look()
    assert [one["over"] for one in relay.posted] == [False, False, True]
    relay.look()
    assert len(relay.posted) == 3


def test_a_clock_that_was_ahead_and_is_set_back_silences_no_alarm(tmp_path: Path) -> None:
    relay = _Relay(tmp_path, _BOTH)
    relay.presence.note(Sign.SEEN)
    relay.look(1 / 60)
    relay.look(-24 * 365)
    for _ in range(23 * 60):
        relay.look(1 / 60)
    assert relay.posted == []
    for _ in range(2 * 60):
        relay.look(1 / 60)
    (posted,) = relay.posted
    assert "24 hours" in posted["text"]


def test_the_owner_hears_that_the_budget_is_nearly_used_up(tmp_path: Path) -> None:
    relay = _Relay(tmp_path, {"webhook": _BOTH["webhook"]})
    relay.presence.note(Sign.SEEN)
    item = relay.spool.store(_ENVELOPE, BytesIO(b"x" * 85_000))
    relay.look()
    relay.spool.remove(item.id)
    relay.look()
    assert [(one["alarm"], one["over"]) for one in relay.posted] == [("budget", False), ("budget", True)]


def test_many_small_messages_use_up_the_room_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relay.watch.MOST_ITEMS", 10)
    place = _Relay(tmp_path, {"webhook": _BOTH["webhook"]})
    place.presence.note(Sign.SEEN)
    items = [place.spool.store(_ENVELOPE, BytesIO(b"x")) for _ in range(9)]
    place.look()
    for _ in range(5):  # about the limit, one more and one less make no alarm
        place.spool.remove(items.pop().id)
        place.look()
        items.append(place.spool.store(_ENVELOPE, BytesIO(b"x")))
        place.look()
    assert [one["text"] for one in place.posted] == ["9 messages wait, and no more than 10 may"]
    for item in items[:4]:
        place.spool.remove(item.id)
    place.look()
    assert [one["over"] for one in place.posted] == [False, True]


@pytest.mark.parametrize("failure", [OSError("down"), BadStatusLine("no HTTP"), LaterError("busy")])
def test_one_way_that_works_is_enough_and_without_it_is_tried_again(
    tmp_path: Path, failure: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    relay = _Relay(tmp_path, _BOTH)
    relay.failure = failure
    relay.look(25)
    relay.look()
    assert len(relay.posted) + len(relay.mailed) == 1
    told = capsys.readouterr().err
    assert "did not reach anybody" in told
    assert "elsewhere" not in told
    assert "hooks" not in told
    only = {"mail": _BOTH["mail"]} if isinstance(failure, LaterError) else {"webhook": _BOTH["webhook"]}
    (folder := tmp_path / "other").mkdir()
    alone = _Relay(folder, only)
    alone.failure = failure
    alone.look(25)
    alone.failure = None
    alone.look()
    assert len(alone.posted) + len(alone.mailed) == 1


def test_a_relay_that_goes_on_from_a_copy_of_its_memory_waits_for_home(tmp_path: Path) -> None:
    relay = _Relay(tmp_path, {})
    told = replace(_ENVELOPE, spf={"result": "pass", "identity": "mailfrom", "domain": "example.net"})
    item = relay.spool.store(told, BytesIO(b"x\r\n"))
    relay.facts.keep(item, told, "")
    relay.presence.note(Sign.SEEN)
    relay.look()
    relay.look(24 * 30)
    assert relay.mailed == []
    for _ in range(9):
        relay.look(1 / 60)
    assert relay.mailed == []
    for _ in range(2):
        relay.look(1 / 60)
    assert len(relay.mailed) == 1


def test_what_goes_wrong_is_told_without_its_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    relay, text = _Relay(tmp_path, {}), "no notice to canary@example.com"
    monkeypatch.setattr("relay.watch.SECONDS", 0.01)

    def fail(*_: object, **_words: object) -> None:
        relay.watch.stop()
        raise ValueError(text)

    monkeypatch.setattr(Expiry, "look", fail)
    relay.watch.serve(lambda: relay.settings)
    told = capsys.readouterr().err
    assert "ValueError" in told
    assert "in look" in told
    assert "canary" not in told


def test_without_settings_nobody_is_told(tmp_path: Path) -> None:
    relay = _Relay(tmp_path, {})
    relay.look(1000)
    assert (relay.posted, relay.mailed) == ([], [])


def test_a_letter_is_mail(tmp_path: Path) -> None:
    relay = _Relay(tmp_path, {"mail": _BOTH["mail"]})
    relay.look(25)
    ((message, *_),) = relay.mailed
    assert message.count(b"\n") == message.count(b"\r\n")
    assert message.isascii()
    assert Alarm(Kind.AWAY, over=True, text="x").over


def test_a_web_service_that_breaks_off_its_answer_has_taken_the_alarm(monkeypatch: pytest.MonkeyPatch) -> None:
    class _Answer(BytesIO):
        def read(self, *_: Any) -> bytes:
            raise IncompleteRead(b"")

    class _Opener:
        def open(self, *_: Any, **_words: Any) -> _Answer:
            return _Answer()

    monkeypatch.setattr("urllib.request.build_opener", lambda *_: _Opener())
    post_https(_BOTH["webhook"], b"{}")


def test_only_https_is_posted_to() -> None:
    class _Never(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            raise AssertionError("asked")

    with HTTPServer(("127.0.0.1", 0), _Never) as server:
        thread = threading.Thread(target=server.handle_request, daemon=True)
        thread.start()
        with pytest.raises(ValueError, match="https"):
            post_https(f"http://127.0.0.1:{server.server_port}/", b"{}")
        with pytest.raises(OSError):  # noqa: PT011 (whatever TLS says)
            post_https(f"https://127.0.0.1:{server.server_port}/", b"{}")
