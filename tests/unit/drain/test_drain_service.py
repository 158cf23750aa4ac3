"""darkpipe-drain: when it drains, what it says, and how messages without an answer are looked for."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest

import home.drain_service
from home.control_errors import Fenced, NotAccepted, Unreachable
from home.drain_journal import Journal
from home.drain_service import Report, one_round, serve, write_down
from home.drain_state import SILENT, Doing, progress_line, read_drained
from home.drain_status import Waiting, waiting_problems
from home.drain_traces import FOUND, WANTED, Look, Unknown, Wanted, read_found, read_wanted
from home.hand_over import LostError
from home.quarantine import Quarantine
from home.relay_peer import PEER, Peer, PeerError, read_peer, write_peer
from home.room import LEAST_FREE
from model.control import Page, QueueStatus
from tests.drain import LocalRelay, make_drain
from tests.mail_sink import Sink

_TRACE = "0" * 32 + ".1"


@pytest.fixture
def report(tmp_path: Path) -> Report:
    return Report(tmp_path / "state.json")


def test_a_round_tells_what_it_has_done(
    tmp_path: Path, relay: LocalRelay, sink: Sink, report: Report, capsys: pytest.CaptureFixture[str]
) -> None:
    relay.keep()
    assert one_round(make_drain(tmp_path / "home", relay, sink), relay, report) == 5.0
    state = read_drained(report.path)
    assert state
    assert (state.doing, state.items, state.trouble) == (Doing.EMPTY, 1, "")
    assert state.relay
    assert state.relay.count == 1, "as the round began"
    assert "drained 1 messages" in capsys.readouterr().out
    assert read_drained(report.path, state.written + SILENT + 1) is None


class _Away(LocalRelay):
    """A relay that fails."""

    error: Exception = Unreachable("nobody answers")

    def status(self) -> QueueStatus:
        raise self.error

    def page(self, after: int) -> Page:
        raise AssertionError(after)


@pytest.mark.parametrize(
    ("error", "doing", "seconds"),
    [(Unreachable("nobody answers"), Doing.PAUSED, 5.0), (Fenced(409, "another home"), Doing.FENCED, 600.0)],
)
def test_what_is_wrong_is_told_once(
    tmp_path: Path,
    sink: Sink,
    report: Report,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
    doing: Doing,
    seconds: float,
) -> None:
    relay = _Away(tmp_path / "away")
    relay.error = error
    drain = make_drain(tmp_path / "home", relay, sink)
    assert one_round(drain, relay, report) == seconds
    one_round(drain, relay, report)
    state = read_drained(report.path)
    assert state
    assert state.doing is doing
    assert str(error) in state.trouble
    assert capsys.readouterr().out.count(str(error)) == 1


def test_a_large_letter_without_room_keeps_no_small_one_waiting_and_is_told(
    tmp_path: Path, relay: LocalRelay, sink: Sink, report: Report
) -> None:
    room = [LEAST_FREE + 100_000]
    drain = make_drain(tmp_path / "home", relay, sink, free=lambda _: room[0])
    large = relay.keep(b"\r\n" + b"x" * 60_000 + b"\r\n")
    for _ in range(2):
        relay.keep()
    one_round(drain, relay, report)
    assert (len(sink.taken), relay.waits) == (2, [large.id])
    state = read_drained(report.path)
    assert state
    assert state.doing is Doing.PAUSED
    assert "no room" in state.trouble
    room[0] *= 2
    one_round(drain, relay, report)
    assert (len(sink.taken), relay.waits) == (3, [])


def test_a_full_disk_stops_the_drain_and_is_told_and_nothing_is_lost(
    tmp_path: Path, relay: LocalRelay, sink: Sink, report: Report
) -> None:
    """What is refused stays in quarantine, so that mail that nobody takes could fill the disk in a single round."""
    room = LEAST_FREE + 10_000
    home_folder = tmp_path / "home"

    def free(folder: Path) -> int:
        return room - sum(path.stat().st_size for path in folder.rglob("*.letter"))

    sink.judge = {"RCPT TO:<alice@example.com>": "550 5.1.1 nobody"}.get
    items = [relay.keep(b"Subject: x\r\n\r\n" + b"x" * 3000 + b"\r\n") for _ in range(5)]
    drain = make_drain(home_folder, relay, sink, free=free)
    assert one_round(drain, relay, report) > 0
    kept, broken = Quarantine(home_folder / "quarantine").all()
    assert 0 < len(kept) < len(items)
    assert not broken
    assert {one.id for one in kept} | set(relay.waits) == {item.id for item in items}
    assert free(home_folder) >= LEAST_FREE
    state = read_drained(report.path)
    assert state
    assert state.doing is Doing.PAUSED
    waiting = Waiting(drain=state, refused=len(kept), sealed=0, damaged=0)
    (told, _) = waiting_problems(waiting)
    assert "the data disk has no room for it: 537 MB are free, 537 MB have to stay" in told.found
    assert "lie in quarantine (darkpipe quarantine list)" in told.found
    # And when it was deleted, the rest comes.
    room = 10**12
    one_round(drain, relay, report)
    assert relay.waits == []
    assert len(Quarantine(home_folder / "quarantine").all()[0]) == len(items)
    again = read_drained(report.path)
    assert again
    assert (again.doing, again.trouble) == (Doing.EMPTY, "")


def test_a_lost_answer_ends_the_service_and_is_written_down(
    tmp_path: Path, relay: LocalRelay, sink: Sink, report: Report
) -> None:
    item = relay.keep()
    sink.judge = {".": ""}.get
    with pytest.raises(LostError):
        one_round(make_drain(tmp_path / "home", relay, sink), relay, report)
    write_down(tmp_path / "home", tmp_path)
    (wanted,) = read_wanted(tmp_path / WANTED)
    assert wanted.trace == f"{item.id}.1"
    assert wanted.port > 0
    letter = tmp_path / f"home/incoming/{item.id}.letter"
    assert wanted.since == int(letter.stat().st_mtime)
    letter.unlink()
    write_down(tmp_path / "home", tmp_path)
    assert read_wanted(tmp_path / WANTED)[0].since == 0


def test_who_shows_another_certificate_may_have_new_keys(tmp_path: Path, sink: Sink, report: Report) -> None:
    relay = _Away(tmp_path / "away")
    relay.error = NotAccepted("no")
    with pytest.raises(NotAccepted):
        one_round(make_drain(tmp_path / "home", relay, sink), relay, report)


def test_without_a_relay_it_waits_and_looks_again(
    tmp_path: Path, report: Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / PEER).write_text("\n")
    stopped = threading.Event()
    monkeypatch.setattr(home.drain_service, "_BROKEN", 0.01)
    serve(tmp_path, tmp_path, report, stopped, tmp_path)
    state = read_drained(report.path)
    assert state
    assert state.doing is Doing.UNPAIRED


def test_what_pairing_tells_is_read_as_it_was_written(tmp_path: Path) -> None:
    peer = Peer.model_validate({"home": "a" * 32, "home_epoch": 3, "relay": "b" * 32, "address": "fd98::2"})
    write_peer(tmp_path, peer)
    assert read_peer(tmp_path / PEER) == peer
    (tmp_path / PEER).write_text("{}")
    with pytest.raises(PeerError, match="damaged"):
        read_peer(tmp_path / PEER)


def test_the_progress_has_a_rate() -> None:
    left = QueueStatus(1, "", "e", 340, 10_000_000, None, 10**9, None, 1, 1)
    assert progress_line(120, 3_400_000, 10.0, left) == (
        "drained 120 messages, 3.4 MB (12.0 messages/s, 0.3 MB/s); 340 messages, 10.0 MB remain"
    )


# ---- looking for messages without an answer


def _look(answers: Mapping[str, Sequence[str]], sockets: Callable[[], Sequence[str]] = lambda: ()) -> Look:
    """Commands whose answers are given, one for each time; the last one is repeated."""
    left = {name: list(texts) for name, texts in answers.items()}

    def run(command: Sequence[str]) -> str:
        texts = left[command[0]]
        text = texts.pop(0) if len(texts) > 1 else texts[0]
        if text == "fails":
            raise Unknown(command[0])
        return text

    return Look(run, sockets, lambda _seconds: None)


_QUEUED = json.dumps({"queue_id": "ABC"})
_NOWHERE = {"postqueue": [""], "postcat": [""], "doveadm": [""]}
_WANTED = [Wanted(trace=_TRACE, port=40001)]


@pytest.mark.parametrize(
    ("answers", "there"),
    [
        ({}, False),
        ({"postqueue": [_QUEUED], "postcat": [f"DarkPipe-Item: {_TRACE}\nSubject: x\n"]}, True),
        ({"postqueue": [_QUEUED], "postcat": [f"Subject: {_TRACE}\n"]}, False),
        ({"postqueue": [_QUEUED], "postcat": ["fails"], "doveadm": ["mailbox 1\n"]}, True),
        ({"doveadm": ["", "mailbox 1\n"]}, True),
    ],
)
def test_it_is_there_or_it_is_not(answers: Mapping[str, Sequence[str]], *, there: bool) -> None:
    assert _look({**_NOWHERE, **answers}).find(_WANTED) == {_TRACE: there}


@pytest.mark.parametrize(
    ("since", "day"),
    [
        (datetime(2026, 10, 1, tzinfo=UTC), "2026-09-29"),  # the device was off for weeks
        (datetime(2030, 1, 1, tzinfo=UTC), "2026-11-23"),  # its clock was ahead
        (datetime(1970, 1, 1, tzinfo=UTC), "1970-01-01"),
    ],
)
def test_mailboxes_are_looked_through_since_it_was_fetched(since: datetime, day: str) -> None:
    asked = []

    def run(command: Sequence[str]) -> str:
        asked.append(command)
        return ""

    look = Look(run, lambda: (), lambda _seconds: None, lambda: datetime(2026, 11, 25, tzinfo=UTC))
    look.find([Wanted(trace=_TRACE, port=0, since=int(since.timestamp()))])
    assert {command[command.index("savedsince") + 1] for command in asked if command[0] == "doveadm"} == {day}


@pytest.mark.parametrize("command", ["postqueue", "doveadm"])
def test_who_cannot_look_does_not_guess(command: str) -> None:
    with pytest.raises(Unknown):
        _look({**_NOWHERE, command: ["fails"]}).find(_WANTED)


def test_a_session_that_is_under_way_is_waited_for() -> None:
    ours = "0: 0100007F:09DE 0100007F:9C41 08 00000000:00000000"
    seen = [[ours], [ours], []]
    asked = []

    def sockets() -> Sequence[str]:
        asked.append(1)
        return seen.pop(0) if len(seen) > 1 else seen[0]

    assert _look(_NOWHERE, sockets).find(_WANTED) == {_TRACE: False}
    assert len(asked) == 3
    with pytest.raises(Unknown, match="session"):
        _look(_NOWHERE, lambda: [ours]).find(_WANTED)
    for other in (ours.replace("9C41", "9C42"), ours.replace("09DE", "0019"), ours.replace(" 08 ", " 06 ")):
        assert _look(_NOWHERE, lambda line=other: [line]).find(_WANTED) == {_TRACE: False}  # type: ignore[misc]


@pytest.mark.parametrize(
    "text", ["[", "{}x", '[{"trace": "x", "port": 1}]', '[{"trace": "' + _TRACE + ' -u root", "port": 1}]', "[5]"]
)
def test_root_reads_nothing_but_traces(tmp_path: Path, text: str) -> None:
    (tmp_path / WANTED).write_text(text)
    with pytest.raises(Unknown):
        read_wanted(tmp_path / WANTED)


def test_what_was_found_settles_it(tmp_path: Path, relay: LocalRelay, sink: Sink) -> None:
    item = relay.keep()
    sink.judge = {".": ""}.get
    with pytest.raises(LostError):
        make_drain(tmp_path / "home", relay, sink).round()
    (tmp_path / FOUND).write_text(json.dumps({f"{item.id}.1": True}))
    sink.judge = lambda _line: None
    drain = make_drain(tmp_path / "home", relay, sink)
    drain.settle(read_found(tmp_path / FOUND))
    drain.round()
    assert relay.waits == []
    assert len(sink.taken) == 1
    assert not Journal(tmp_path / "home").open_entries()
