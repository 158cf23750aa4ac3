"""The drain and a relay that forgets, lies, hides or cannot read what it has; and letters at which all ends."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import pytest

import home.drain
from home.control_errors import Unreachable
from home.drain_letter import Letter, read_letter
from home.drain_run import Drain
from home.hand_over import LostError, NobodyTakesError
from home.quarantine import Quarantine
from model.control import Page, QueuedItem
from tests.drain import LocalRelay, envelope, make_drain
from tests.mail_sink import Sink


def test_a_relay_that_was_set_back_repeats_nothing(
    relay: LocalRelay, sink: Sink, start: Callable[[], Drain], told: list[str]
) -> None:
    item = relay.keep()
    content = relay.queue.spool.open(item.id).file
    assert content
    octets = content.read_bytes()
    start().round()
    content.write_bytes(octets)
    relay.start()
    drain = start()
    assert drain.round().items == 0
    assert relay.waits == []
    assert len(sink.taken) == 1
    assert [text for text in told if "again" in text]


def test_an_item_that_vanishes_is_told(
    tmp_path: Path, relay: LocalRelay, sink: Sink, start: Callable[[], Drain], told: list[str]
) -> None:
    sink.judge = {"RCPT TO:<alice@example.com>": "450"}.get
    item = relay.keep()
    drain = start()
    drain.round()
    relay.delete(item.id)
    (tmp_path / f"home/incoming/{item.id}.letter").unlink()
    drain.round()
    drain.round()
    assert [text for text in told if item.id in text] == [
        f"item {item.id} is lost: the relay has it no more, and home did not get it"
    ]
    assert drain.lost == 1


@pytest.mark.parametrize("anew", [False, True])
def test_what_home_has_fetched_is_handed_over_although_the_relay_has_it_no_more(
    relay: LocalRelay, sink: Sink, start: Callable[[], Drain], monkeypatch: pytest.MonkeyPatch, *, anew: bool
) -> None:
    monkeypatch.setattr(home.drain, "_SOON", 0.0)
    sink.judge = {"RCPT TO:<alice@example.com>": "450"}.get
    item = relay.keep()
    drain = start()
    drain.round()
    if anew:  # the relay has died, and another one has come
        shutil.rmtree(relay.folder / "queue")
        (relay.folder / "queue").mkdir()
        relay.start()
    else:
        relay.delete(item.id)
    drain.round()
    sink.judge = lambda _line: None
    drain = start()
    drain.round()
    drain.round()
    assert [one.recipients for one in sink.taken] == [("alice@example.com",)]
    assert drain.lost == 0
    assert not list((relay.folder.parent / "home/incoming").iterdir())


def test_what_nobody_has_answered_for_is_not_given_up_before_it_was_looked_for(
    relay: LocalRelay, sink: Sink, start: Callable[[], Drain]
) -> None:
    item = relay.keep()
    sink.judge = {".": ""}.get
    with pytest.raises(LostError):
        start().round()
    relay.delete(item.id)
    sink.judge = lambda _line: None
    sink.taken.clear()
    drain = start()
    drain.round()
    assert not sink.taken
    drain.settle({f"{item.id}.1": False})
    drain.round()
    assert len(sink.taken) == 1
    assert drain.lost == 0


def test_an_item_that_was_hidden_and_comes_back_is_handed_over(
    tmp_path: Path, relay: LocalRelay, sink: Sink, start: Callable[[], Drain], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(home.drain, "_SOON", 0.0)
    sink.judge = {"RCPT TO:<alice@example.com>": "450"}.get
    item = relay.keep()
    drain = start()
    drain.round()
    (tmp_path / f"home/incoming/{item.id}.letter").unlink()
    page = relay.page
    monkeypatch.setattr(relay, "page", lambda after: replace(page(after), items=()))
    drain.round()
    assert drain.lost == 1
    monkeypatch.setattr(relay, "page", page)
    sink.judge = {".": ""}.get
    with pytest.raises(LostError):
        start().round()
    sink.taken.clear()
    drain = start()
    drain.settle({f"{item.id}.1": False})
    sink.judge = lambda _line: None
    drain.round()
    assert len(sink.taken) == 1
    assert relay.waits == []


class _BadSector(LocalRelay):
    """A relay whose disk does not give back one of its items: it hangs up in the middle."""

    bad = ""

    def fetch(self, item: QueuedItem, into: BinaryIO) -> str:
        if item.id == self.bad:
            raise Unreachable("the relay has hung up")
        return super().fetch(item, into)


def test_an_item_that_the_relay_cannot_read_does_not_stop_the_others(tmp_path: Path, sink: Sink) -> None:
    relay = _BadSector(tmp_path / "bad")
    relay.bad = relay.keep().id
    for _ in range(3):
        relay.keep()
    drain = make_drain(tmp_path / "home", relay, sink)
    for _ in range(4):
        with pytest.raises(Unreachable):
            drain.round()
    assert drain.round().items == 3
    assert relay.waits == [relay.bad]
    assert drain.round().put_off == 1


def test_a_letter_that_the_disk_does_not_give_back_is_fetched_anew_and_stops_nobody(
    relay: LocalRelay, sink: Sink, start: Callable[[], Drain], monkeypatch: pytest.MonkeyPatch
) -> None:
    items = [relay.keep() for _ in range(2)]
    sink.judge = {".": "451 4.7.1 later"}.get
    start().round()
    bad = {f"{items[0].id}.letter"}

    def read_bad(path: Path) -> Letter:
        if path.name in bad:
            bad.clear()
            raise OSError(errno.EIO, "Input/output error")
        return read_letter(path)

    monkeypatch.setattr("home.drain_incoming.read_letter", read_bad)
    sink.judge = lambda _line: None
    assert start().round().items == 2
    assert not bad
    assert relay.waits == []


@pytest.mark.parametrize(
    ("line", "answer"),
    [("RCPT TO:<poison@example.com>", ""), ("MAIL FROM:<poison@example.net> SIZE=22", "452 4.3.1 not that much")],
)
def test_a_letter_at_which_all_ends_does_not_stop_the_others(
    relay: LocalRelay, sink: Sink, start: Callable[[], Drain], line: str, answer: str
) -> None:
    item = relay.keep(found=envelope("poison@example.com", sender="poison@example.net"))
    relay.keep()
    sink.judge = {line: answer}.get
    drain = start()
    for _ in range(4):
        with pytest.raises(NobodyTakesError):
            drain.round()
    assert drain.round().items == 1
    assert relay.waits == [item.id]


class _Liar(LocalRelay):
    """Tells something else of its items than they are."""

    def page(self, after: int) -> Page:
        page = super().page(after)
        return replace(page, items=tuple(replace(item, sha256="0" * 64) for item in page.items))


def test_a_checksum_that_differs_is_told_and_loses_nothing(
    tmp_path: Path, sink: Sink, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(home.drain, "_SOON", 0.0)
    liar = _Liar(tmp_path / "liar")
    item = liar.keep()
    drain = make_drain(tmp_path / "home", liar, sink, told.append)
    assert [drain.round().items for _ in range(3)] == [0, 0, 1]
    assert len(sink.taken) == 1
    assert [text for text in told if "checksum" in text and item.id in text]


class _Swapper(LocalRelay):
    """Gives another letter from some moment on."""

    other = b""

    def fetch(self, item: QueuedItem, into: BinaryIO) -> str:
        if not self.other:
            return super().fetch(item, into)
        into.write(self.other)
        return item.sha256


def test_another_letter_under_the_same_id_goes_to_nobody(
    tmp_path: Path, sink: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(home.drain, "_SOON", 0.0)
    relay = _Swapper(tmp_path / "swapper")
    relay.keep()
    sink.judge = {"RCPT TO:<alice@example.com>": "450"}.get
    make_drain(tmp_path / "home", relay, sink).round()
    (letter,) = (tmp_path / "home/incoming").glob("*.letter")
    letter.unlink()
    mallory = relay.keep(found=envelope("mallory@example.com"))
    content = relay.queue.spool.open(mallory.id).file
    assert content
    relay.other = content.read_bytes()
    relay.delete(mallory.id)
    sink.judge = lambda _line: None
    drain = make_drain(tmp_path / "home", relay, sink)
    for _ in range(3):
        drain.round()
    assert relay.waits == []
    assert not sink.taken
    assert len(Quarantine(tmp_path / "home/quarantine").all()[0]) == 1
