"""The drain and whatever goes wrong: cuts at any step, relays that lie, disks that fail, and every order of answers."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

import home.drain
import home.drain_run
from home.control_errors import Unreachable
from home.drain import Entry, Fate, Reply, Step, answered, begun, looked, next_step, notices, opened, waiting
from home.drain_journal import NAME, Journal, JournalError
from home.drain_run import Drain
from home.hand_over import LostError, NobodyTakesError, stuffed
from home.quarantine import Quarantine
from model.control import SEQUENCE_BLOCK, Page, QueuedItem
from relay.content import Content
from tests.drain import RECEIVED, AtOnce, LocalRelay, envelope, make_drain
from tests.mail_sink import Sink
from tests.syscalls import Call, Fault, changing_calls, trace_function, why_not

_ITEM = QueuedItem("0" * 32, 1, 100, RECEIVED, "f" * 64)


@pytest.fixture
def start(tmp_path: Path, relay: LocalRelay, sink: Sink, told: list[str]) -> Callable[[], Drain]:
    return lambda: make_drain(tmp_path / "home", relay, sink, told.append)


_SERVER = st.sampled_from(["250", "450", "550", "lost, taken", "lost, not taken", "cut before", "cut after"])


@given(st.lists(st.lists(_SERVER, min_size=3, max_size=3), max_size=12))
def test_whatever_comes_nobody_gets_it_twice_and_the_relay_forgets_what_is_settled(
    sessions: Sequence[Sequence[str]],
) -> None:
    entry: Entry | None = None
    has: Counter[int] = Counter()
    kept: set[int] = set()
    for session in sessions:
        match next_step(entry, 0.0, 1.0):
            case Step.OPEN:
                entry = opened(entry or Entry("e", _ITEM), ["a@b.example"] * 3)
                continue
            case Step.DELETE:
                assert entry
                assert has.keys() | kept == {0, 1, 2}
                return
            case step:
                assert step is Step.HAND_OVER
        assert entry
        who = waiting(entry)
        assert who
        assert not set(who) & has.keys()
        replies = {number: Reply(int(session[number])) for number in who if session[number].isdecimal()}
        kept |= {number for number, reply in replies.items() if reply.final}
        good = [number for number in who if number not in replies or replies[number].good]
        end = next((session[number] for number in good if number not in replies), "250")
        if end == "cut before" or not good:
            entry = answered(entry, {} if end == "cut before" else replies)
            continue
        entry = begun(entry, good, 1)
        assert next_step(entry, 0.0, 1.0) is Step.LOOK
        if end != "lost, not taken":
            has.update(good)
        if end == "250":
            entry = answered(entry, {**replies, **dict.fromkeys(good, Reply(250))})
        else:
            entry = looked(entry, there=end != "lost, not taken")
    assert all(count == 1 for count in has.values())


def test_a_fate_that_is_final_stays_so() -> None:
    entry = answered(opened(Entry("e", _ITEM), ["a@b.example"]), {0: Reply(250)})
    assert answered(entry, {0: Reply(550)}) == entry
    assert looked(entry, there=False) == entry


@given(st.lists(st.binary(max_size=6) | st.sampled_from([b"\r\n.", b".", b"\r", b"\n", b"\r\n"]), max_size=12))
def test_what_is_stuffed_comes_out_as_it_was(pieces: list[bytes]) -> None:
    message = b"".join(pieces) + b"\r\n"
    assert Content().feed(b"".join(stuffed(iter([*pieces, b"\r\n"]))) + b".\r\n") == (message, b"")


def test_an_honest_relay_is_not_suspected() -> None:
    items = [replace(_ITEM, id=f"{number:032x}", sequence=number) for number in (1, 2, 3)]
    assert not list(notices(0, items, {}))
    later = replace(_ITEM, sequence=SEQUENCE_BLOCK + 1)
    assert not list(notices(3, [later], {})), "a restart begins a new block"
    assert not list(notices(0, [replace(_ITEM, sequence=77)], {})), "another home may have taken what was before"
    assert not list(notices(1, [_ITEM], {_ITEM.id: Entry("e", _ITEM)}))


@pytest.mark.parametrize(
    ("highest", "numbers", "words"),
    [
        (1, [3], "item no. 2 never came"),
        (0, [1, 5], "items no. 2 to 4 never came"),
        (0, [2, 1], "out of order"),
        (0, [1, 1], "to two items"),
        (5, [4], "left out before"),
        (3, [3 * SEQUENCE_BLOCK + 1], "never came"),
    ],
)
def test_a_relay_that_drops_or_reorders_is_noticed(highest: int, numbers: Sequence[int], words: str) -> None:
    items = [replace(_ITEM, id=f"{place:032x}", sequence=number) for place, number in enumerate(numbers)]
    assert words in "\n".join(notices(highest, items, {}, ()))


def test_who_has_just_started_does_not_suspect_what_was_not_taken_up_yet() -> None:
    assert not list(notices(5, [replace(_ITEM, sequence=4)], {}))
    assert not list(notices(5, [replace(_ITEM, sequence=4)], {}, {_ITEM.id}))


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


def test_a_journal_that_is_damaged_or_newer_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(b"no journal" * 1000)
    with pytest.raises(JournalError, match=re.escape(str(tmp_path / NAME))):
        Journal(tmp_path)
    (tmp_path / NAME).unlink()
    made = Journal(tmp_path)
    made._base.execute("PRAGMA user_version = 2")
    made.close()
    with pytest.raises(JournalError, match="another version"):
        Journal(tmp_path)


def test_the_journal_forgets_after_a_year(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    entry = answered(opened(Entry("e", _ITEM), ["a@b.example"]), {0: Reply(250)})
    journal.note(replace(entry, deleted=True))
    journal.note(replace(entry, item=replace(_ITEM, id="1" * 32)))
    journal.prune(RECEIVED + 364 * 86_400_000)
    assert journal.find("e", [_ITEM.id])
    journal.prune(RECEIVED + 366 * 86_400_000)
    assert not journal.find("e", [_ITEM.id])
    assert journal.find("e", ["1" * 32])["1" * 32].people[0].fate is Fate.TAKEN, "the relay has it still"


# ---- cuts at system calls


_SENDS = re.compile(r"^(sendto|sendmsg)\(")


def _calls(trace: str) -> list[Call]:
    """All calls of a trace that change a file, and those that say something to the mail server."""
    sends, counted = [], Counter[str]()
    for line in trace.splitlines():
        if match := _SENDS.match(line):
            counted[match[1]] += 1
            sends.append(Call(match[1], counted[match[1]], line))
    return [*changing_calls(trace), *sends]


@pytest.fixture
def memory() -> Iterator[Path]:
    """A folder in memory if possible: no power is cut."""
    where = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=where if os.access(where, os.W_OK) else None, prefix="darkpipe-") as name:
        yield Path(name)


@pytest.fixture
def every_call(request: pytest.FixtureRequest) -> bool:
    """Whether all calls are walked, and no sample."""
    return bool(request.config.getoption("every_call"))


class _Trial:
    """A relay with three items, of which the mail server refuses one, and a home that drains it."""

    def __init__(self, folder: Path, sink: Sink) -> None:
        self.folder, self.sink = folder, sink
        self.relay = LocalRelay(folder / "relay")
        self.items = [
            self.relay.keep(found=envelope(f"{name}@example.com", "all@example.com")) for name in ("a", "no", "c")
        ]
        sink.judge = {"RCPT TO:<no@example.com>": "550 5.1.1 nobody"}.get

    def drain(self) -> None:
        """One start of home's service, after somebody has looked for what was under way."""
        home_folder = self.folder / "home"
        home_folder.mkdir(exist_ok=True)
        self.relay.start()
        journal = Journal(home_folder)
        unsure = [entry.trace for entry in journal.open_entries() if entry.unsure]
        journal.close()
        # strace follows no threads.
        drain = make_drain(home_folder, self.relay, self.sink, errands=AtOnce())
        self.sink.wait_until_idle()
        drain.settle({name: name in self.sink.traces() for name in unsure})
        drain.round()

    def check(self) -> None:
        """Nothing waits, nothing is lost, and nobody has anything twice."""
        self.relay.start()
        assert self.relay.waits == []
        got = Counter((taken.trace[:32], person) for taken in self.sink.taken for person in taken.recipients)
        everybody = [(item.id, name) for item, first in zip(self.items, "a-c", strict=True) for name in (first, "all")]
        expected = {(item, f"{name}@example.com"): 1 for item, name in everybody if name != "-"}
        assert got == expected
        kept, broken = Quarantine(self.folder / "home/quarantine").all()
        assert not broken
        assert [(one.id, one.recipients[0].address) for one in kept] == [(self.items[1].id, "no@example.com")]
        assert not list((self.folder / "home/incoming").iterdir())


def _walk(memory: Path, fault: Fault, part: slice) -> int:
    """Let a fault happen at each call of a drain, then drain again, and look."""

    def trial(number: int, at: tuple[Call, Fault] | None) -> tuple[bool, str]:
        folder = memory / str(number)
        folder.mkdir()
        sink = Sink()
        made = _Trial(folder, sink)
        ended = trace_function(made.drain, folder, at)
        if at is None:
            assert ended.status == 0, ended.output
        made.drain()
        made.check()
        sink.close()
        return ended.killed or "Error" in ended.output, ended.trace

    if reason := why_not():
        pytest.skip(reason)
    _, trace = trial(0, None)
    calls = [call for call in _calls(trace) if fault is Fault.KILL or call.touches_files]
    assert any(call.name == "sendto" for call in calls)
    hit = 0
    for number, call in enumerate(calls[part], start=1):
        try:
            hit += trial(number, (call, fault))[0]
        except AssertionError as error:
            raise AssertionError(f"{fault} at {call}") from error
    return hit


def test_a_cut_at_any_call_loses_nothing_and_repeats_nothing(memory: Path, *, every_call: bool) -> None:
    assert _walk(memory, Fault.KILL, slice(None, None, None if every_call else 10)) > 10


@pytest.mark.parametrize("fault", [Fault.NO_SPACE, Fault.BROKEN_DISK])
def test_a_disk_that_fails_at_any_call_loses_nothing_and_repeats_nothing(
    memory: Path, fault: Fault, *, every_call: bool
) -> None:
    assert _walk(memory, fault, slice(None, None, None if every_call else 30)) > 0


def test_the_walk_finds_a_drain_that_deletes_too_early(memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A planted fault: the relay forgets an item as soon as it was fetched."""
    fetch = LocalRelay.fetch

    def greedy(self: LocalRelay, item: QueuedItem, into: BinaryIO) -> str:
        found = fetch(self, item, into)
        self.delete(item.id)
        return found

    monkeypatch.setattr(LocalRelay, "fetch", greedy)
    with pytest.raises(AssertionError, match="KILL"):
        _walk(memory, Fault.KILL, slice(None, None, 10))
