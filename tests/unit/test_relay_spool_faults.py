"""Faults at each call of the store: what was taken is there, what was removed is not, and no number comes twice."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pyrage
import pytest

from model.control import QueuedItem
from relay.files import sync_folder
from relay.room import SpoolFullError
from relay.spool import Spool, SpoolError
from tests.memory import folder_in_memory
from tests.sealed import opened
from tests.syscalls import Call, Ended, Fault, changing_calls, trace_function, why_not
from tests.unit.spool_samples import ENVELOPE, HOME, KEYS, MESSAGE

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))


@pytest.fixture
def folder() -> Iterator[Path]:
    with folder_in_memory() as made:
        (made / "spool").mkdir(mode=0o700)
        (made / "taken").mkdir()
        (made / "removed").mkdir()
        yield made


def _store_one(spool: Spool) -> list[QueuedItem]:
    return [spool.store(ENVELOPE, BytesIO(MESSAGE))]


def _store_three(spool: Spool) -> list[QueuedItem]:
    """Store as relay.front does, all at once."""
    with contextlib.ExitStack() as stack:
        rooms = [stack.enter_context(spool.room(len(MESSAGE))) for _ in range(3)]
        results = spool.store_all([(ENVELOPE, BytesIO(MESSAGE), room) for room in rooms])
    return [one for one in results if isinstance(one, QueuedItem)]


class _Walk:
    """Starting on a folder, storing a message and removing one; each is acknowledged by a file of the item's name.

    Args:
        fresh: whether each start finds an empty folder.
        store: stores messages.
    """

    def __init__(self, folder: Path, *, fresh: bool, store: Callable[[Spool], list[QueuedItem]] = _store_one) -> None:
        self._store = store
        self.scratch, self._folder, self._fresh = folder, folder / "spool", fresh
        self._numbers: dict[tuple[str, int], str] = {}
        self._prepare()
        self.act()  # loads what every later fork has then loaded already
        self._prepare()
        self.clean = trace_function(self.act, folder)
        assert self.clean.status == 0, self.clean.output
        self.calls = changing_calls(self.clean.trace)

    def _prepare(self) -> None:
        if self._fresh:
            for path in itertools.chain(self._folder.iterdir(), (self.scratch / "taken").iterdir()):
                path.unlink()
        else:
            self._spool().store(ENVELOPE, BytesIO(MESSAGE))

    def _spool(self) -> Spool:
        return Spool(self._folder, KEYS, 10**9)

    def act(self) -> None:
        try:
            spool = self._spool()
        except OSError:
            return  # the service ends, and is started again
        first = [item.id for item in spool.items(most=1)]
        try:
            for stored in self._store(spool):
                (self.scratch / "taken" / stored.id).touch()
        except (SpoolFullError, SpoolError):
            pass
        for name in first:
            try:
                spool.remove(name)
                (self.scratch / "removed" / name).touch()
            except SpoolError:
                pass

    def meet(self, call: Call, fault: Fault) -> Ended:
        """Put a fault on one call, and look at what it leaves, after a restart."""
        self._prepare()
        before = set() if self._fresh else {item.id for item in self._spool().items()}
        ended = trace_function(self.act, self.scratch, (call, fault))
        spool = self._spool()
        items = {item.id: item for item in spool.items()}
        taken = {path.name for path in (self.scratch / "taken").iterdir()}
        removed = {path.name for path in (self.scratch / "removed").iterdir()}
        assert taken - removed <= items.keys() | (before - removed), f"{call}: a message that was taken is lost"
        assert len(before - items.keys() - removed) <= 1, f"{call}: more than the one that was to be removed has gone"
        assert not removed & items.keys(), f"{call}: what was removed is there again"
        names = {path.name for path in self._folder.iterdir()} - {"epoch.json"}
        assert len(names) == len(items), f"{call}: rubbish"
        assert opened(spool, HOME) == [(ENVELOPE, MESSAGE)] * len(items), f"{call}: an item that does not open"
        for item in items.values():
            known = self._numbers.setdefault((spool.epoch, item.sequence), item.id)
            assert known == item.id, f"{call}: a number was used twice"
        for name in items:  # keeps the walk short
            spool.remove(name)
        for name in taken:
            (self.scratch / "taken" / name).unlink()
        return ended


@pytest.mark.parametrize("store", [_store_one, _store_three])
@pytest.mark.parametrize("fresh", [False, True])
def test_cut_at_every_call(folder: Path, fresh: bool, store: Callable[[Spool], list[QueuedItem]]) -> None:
    walk = _Walk(folder, fresh=fresh, store=store)
    assert len(walk.calls) > 10
    for call in walk.calls:
        assert walk.meet(call, Fault.KILL).killed, f"{call}: not reached"


@pytest.mark.parametrize("store", [_store_one, _store_three])
@pytest.mark.parametrize("fresh", [False, True])
def test_every_call_fails(folder: Path, fresh: bool, store: Callable[[Spool], list[QueuedItem]]) -> None:
    walk = _Walk(folder, fresh=fresh, store=store)
    for call, fault in itertools.product(
        [call for call in walk.calls if call.touches_files], [Fault.NO_SPACE, Fault.BROKEN_DISK]
    ):
        ended = walk.meet(call, fault)
        assert "(INJECTED)" in ended.trace, f"{call}: not reached"


_SYNCED = ["fsync", "rename", "fsync"]


def _steps(trace: str) -> list[str]:
    """Name the calls that make files and names lasting, in their order."""
    found = [line.partition("(")[0] for line in trace.splitlines()]
    names = {"renameat": "rename", "renameat2": "rename"}
    return [names.get(one, one) for one in found if one in {"fsync", "syncfs", "unlink", "rename", *names}]


def test_what_is_taken_or_removed_has_been_synced(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No kill shows what the kernel has not written yet; the order of the calls does, and a missing one is found."""
    walk = _Walk(folder, fresh=False)
    # The numbers that are set aside, the item, and the removal.
    good = [*_SYNCED, *_SYNCED, "unlink", "fsync"]
    assert sorted(_steps(walk.clean.trace)) == sorted(good)
    assert _steps(walk.clean.trace) == ["fsync", *_SYNCED, "rename", "fsync", "unlink", "fsync"]

    def forget(_: Any) -> None:
        """Sync nothing."""

    faults: list[Callable[[pytest.MonkeyPatch], None]] = [
        lambda patch: patch.setattr("relay.spool.sync_folder", forget),
        lambda patch: patch.setattr("relay.files.sync_folder", forget),
        lambda patch: patch.setattr(os, "fsync", forget),
    ]
    for plant in faults:
        with monkeypatch.context() as patch:
            plant(patch)
            assert sorted(_steps(trace_function(walk.act, folder).trace)) != sorted(good)


def test_several_are_synced_at_once_and_before_they_get_their_names(folder: Path) -> None:
    trace = _steps(_Walk(folder, fresh=False, store=_store_three).clean.trace)
    named = ["rename", "rename", "rename"]
    assert trace == ["syncfs", *_SYNCED, *named, "fsync", "unlink", "fsync"]


def test_planted_bugs_are_found(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here a removal that is told before it is done."""
    monkeypatch.setattr(Spool, "_find", _forgetful(Spool._find))
    with pytest.raises((AssertionError, pyrage.DecryptError)):  # noqa: PT012 (a walk is one thing)
        walk = _Walk(folder, fresh=False)
        for call in walk.calls:
            walk.meet(call, Fault.KILL)


def _forgetful(find: Callable[[Spool, str], Any]) -> Callable[[Spool, str], Any]:
    """Acknowledge a removal before anything is done."""

    def wrapped(spool: Spool, name: str) -> Any:
        (spool._folder.parent / "removed" / name).touch()
        return find(spool, name)

    return wrapped


def test_a_folder_that_does_not_sync_is_told_as_a_failure(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Spool(folder / "spool", KEYS, 10**9)

    def fail(path: Path) -> None:
        sync_folder(path)
        raise OSError(errno.EIO, "broken")

    with monkeypatch.context() as patch:
        patch.setattr("relay.spool.sync_folder", fail)
        with pytest.raises(SpoolError):
            spool.store(ENVELOPE, BytesIO(MESSAGE))
    assert spool.items() == []
    assert {path.name for path in (folder / "spool").iterdir()} == {"epoch.json"}
