"""The item that is fetched while another one is handed over, and whatever happens in between."""

from __future__ import annotations

import errno
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pytest

import home.drain
import home.drain_incoming
from home.control_errors import ControlFailure, Fenced, Unreachable
from home.drain_run import Drain
from home.hand_over import LostError, NobodyTakesError
from model.control import QueuedItem
from tests.drain import LocalRelay, make_drain
from tests.mail_sink import Sink


class _Relay(LocalRelay):
    """A relay whose answers something can happen to.

    Args:
        fails: what is raised instead of an answer, by method and the item's id.
        slow: for what the answer takes half a second.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.fails: dict[tuple[str, str], Exception] = {}
        self.slow: set[tuple[str, str]] = set()
        self.ended: list[tuple[str, str]] = []
        self.most_at_once = self._now = 0

    def fetch(self, item: QueuedItem, into: BinaryIO) -> str:
        return self._one("GET", item.id, lambda: super(_Relay, self).fetch(item, into))

    def delete(self, item: str) -> None:
        self._one("DELETE", item, lambda: super(_Relay, self).delete(item))

    def _one(self, method: str, item: str, do: Callable[[], object]) -> str:
        self._now += 1
        self.most_at_once = max(self.most_at_once, self._now)
        try:
            if error := self.fails.get((method, item)):
                raise error
            if (method, item) in self.slow:
                time.sleep(0.5)
            return str(do())
        finally:
            self._now -= 1
            self.ended.append((method, item))

    def wait_for(self, method: str, item: QueuedItem) -> None:
        """Wait until something was asked for."""
        end = time.monotonic() + 20
        while (method, item.id) not in self.ended:
            assert time.monotonic() < end, f"no {method}: {self.ended}"
            time.sleep(0.002)


@pytest.fixture
def relay(tmp_path: Path) -> _Relay:
    return _Relay(tmp_path / "relay")


@pytest.fixture
def start(tmp_path: Path, relay: LocalRelay, sink: Sink) -> Callable[[], Drain]:
    """Starts home's drain, or starts it anew."""
    return lambda: make_drain(tmp_path / "home", relay, sink)


def _at_first_end(sink: Sink, do: Callable[[], str | None]) -> None:
    """Let something happen while the mail server thinks about the first message."""
    first = threading.Event()

    def judge(line: str) -> str | None:
        if line != "." or first.is_set():
            return None
        first.set()
        return do()

    sink.judge = judge


def _incoming(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "home/incoming").iterdir())


def _came(sink: Sink) -> list[str]:
    return [taken.trace.partition(".")[0] for taken in sink.taken]


def test_the_next_item_and_no_more_is_fetched_while_one_is_handed_over(
    tmp_path: Path, relay: _Relay, sink: Sink, start: Callable[[], Drain]
) -> None:
    items = [relay.keep() for _ in range(4)]
    found: list[list[str]] = []

    def look() -> None:
        relay.wait_for("GET", items[1])
        time.sleep(0.1)
        found.append(_incoming(tmp_path))

    _at_first_end(sink, look)
    assert start().round().items == 4
    assert found == [sorted(f"{item.id}.letter" for item in items[:2])]
    assert _came(sink) == [item.id for item in items]
    assert relay.waits == []
    assert relay.most_at_once == 1
    assert not _incoming(tmp_path)


def test_what_is_large_is_fetched_in_its_turn(
    relay: _Relay, sink: Sink, start: Callable[[], Drain], monkeypatch: pytest.MonkeyPatch
) -> None:
    items = [relay.keep(), relay.keep(b"x" * 10_000 + b"\r\n"), relay.keep()]
    monkeypatch.setattr(home.drain_incoming, "_LARGEST_AHEAD", 10_000)
    before: list[bool] = []

    def look() -> None:
        time.sleep(0.1)
        before.append(("GET", items[1].id) in relay.ended)

    _at_first_end(sink, look)
    assert start().round().items == 3
    assert before == [False]


def test_a_home_that_was_overtaken_hands_over_nothing_that_it_has_fetched_ahead(
    relay: _Relay, sink: Sink, start: Callable[[], Drain]
) -> None:
    items = [relay.keep() for _ in range(3)]
    fenced = Fenced(409, "another home")

    def overtake() -> None:
        relay.wait_for("GET", items[1])
        relay.fails = {(method, item.id): fenced for method in ("GET", "DELETE") for item in items}

    _at_first_end(sink, overtake)
    drain = start()
    for _ in range(2):
        with pytest.raises(Fenced):
            drain.round()
    assert _came(sink) == [items[0].id]


def test_the_relay_is_asked_again_when_the_item_before_was_put_off(
    relay: _Relay, sink: Sink, start: Callable[[], Drain]
) -> None:
    items = [relay.keep() for _ in range(2)]

    def overtake() -> str:
        relay.wait_for("GET", items[1])
        relay.fails = {("GET", items[1].id): Fenced(409, "another home")}
        return "450 4.2.0 later"

    _at_first_end(sink, overtake)
    with pytest.raises(Fenced):
        start().round()
    assert not sink.taken


@pytest.mark.parametrize("error", [Unreachable("planted"), OSError(errno.ENOSPC, "planted")])
def test_what_cannot_be_fetched_ahead_is_fetched_in_its_turn(
    tmp_path: Path, relay: _Relay, sink: Sink, start: Callable[[], Drain], error: Exception
) -> None:
    items = [relay.keep() for _ in range(3)]
    relay.fails = {("GET", items[1].id): error}
    found: list[list[str]] = []

    def mend() -> None:
        relay.wait_for("GET", items[1])
        time.sleep(0.05)
        found.append(_incoming(tmp_path))
        relay.fails = {}

    _at_first_end(sink, mend)
    assert start().round().items == 3
    assert found == [[f"{items[0].id}.letter"]], "the one that failed leaves its room to the others"
    assert _came(sink) == [item.id for item in items]


def test_a_queue_that_begins_anew_in_between_repeats_nothing(
    relay: _Relay, sink: Sink, start: Callable[[], Drain]
) -> None:
    old = [relay.keep() for _ in range(2)]
    fresh: list[QueuedItem] = []

    def begin_anew() -> None:
        relay.wait_for("GET", old[1])
        shutil.rmtree(relay.folder / "queue")
        (relay.folder / "queue").mkdir()
        relay.start()
        fresh.append(relay.keep())

    _at_first_end(sink, begin_anew)
    drain = start()
    drain.round()
    drain.round()
    assert _came(sink) == [item.id for item in [*old, *fresh]]
    assert relay.waits == []
    assert drain.lost == 0


@pytest.mark.parametrize("answer", ["421 4.3.2 down", ""])
def test_what_was_fetched_ahead_waits_for_the_next_round(
    tmp_path: Path, relay: _Relay, sink: Sink, start: Callable[[], Drain], answer: str
) -> None:
    items = [relay.keep() for _ in range(2)]
    sink.judge = {"DATA": answer}.get if not answer else {"connect": answer}.get
    drain = start()
    for _ in range(3):
        with pytest.raises(NobodyTakesError):
            drain.round()
    assert relay.ended == [("GET", item.id) for item in items]
    sink.judge = lambda _line: None
    relay.delete(items[0].id)
    relay.delete(items[1].id)
    drain.round()
    assert _incoming(tmp_path) == [], "nobody takes up what the relay has no more, and whose turn never came"


def test_a_round_that_ends_early_leaves_no_errand_behind(relay: _Relay, sink: Sink, start: Callable[[], Drain]) -> None:
    items = [relay.keep() for _ in range(3)]
    relay.slow = {("GET", items[2].id)}
    seen = 0

    def judge(line: str) -> str | None:
        nonlocal seen
        seen += line == "."
        return "" if seen == 2 else None

    sink.judge = judge
    with pytest.raises(LostError):
        start().round()
    assert ("DELETE", items[0].id) in relay.ended
    assert ("GET", items[2].id) in relay.ended


def test_a_relay_that_does_not_forget_is_asked_again(relay: _Relay, sink: Sink, start: Callable[[], Drain]) -> None:
    items = [relay.keep() for _ in range(2)]
    relay.fails = {("DELETE", items[0].id): Unreachable("planted")}
    drain = start()
    with pytest.raises(ControlFailure):
        drain.round()
    relay.fails = {}
    drain.round()
    assert relay.waits == []
    assert _came(sink) == [item.id for item in items]


def test_a_message_that_waits_longer_keeps_its_letter_over_a_start(
    tmp_path: Path, relay: _Relay, sink: Sink, start: Callable[[], Drain], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(home.drain, "_SOON", 0.0)
    items = [relay.keep() for _ in range(2)]
    sink.judge = {".": "450 4.2.0 later"}.get
    start().round()
    assert _incoming(tmp_path) == sorted(f"{item.id}.letter" for item in items)
    relay.ended.clear()
    sink.judge = lambda _line: None
    start().round()
    assert relay.ended == [("DELETE", item.id) for item in items]
