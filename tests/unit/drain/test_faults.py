"""The drain, cut off or let down by its disk at any of its system calls."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pytest

from home.drain_journal import Journal
from home.quarantine import Quarantine
from model.control import QueuedItem
from tests.drain import AtOnce, LocalRelay, envelope, make_drain
from tests.mail_sink import Sink
from tests.memory import folder_in_memory
from tests.syscalls import Call, Fault, changing_calls, trace_function, why_not

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
    with folder_in_memory() as made:
        yield made


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
