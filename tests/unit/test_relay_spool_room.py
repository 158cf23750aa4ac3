"""Room for a message: promised once on the disk, and what the disk has no room for goes to a place besides it."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import pytest

from model.control import Fault, QueuedItem
from relay.place import PlaceError
from relay.room import OVERHEAD, SpoolFullError
from relay.spool import INODES, Spool, SpoolError
from tests.memory import folder_in_memory
from tests.sealed import sealed
from tests.unit.spool_samples import ENVELOPE, KEYS, MESSAGE, Stream


@pytest.fixture
def folder() -> Iterator[Path]:
    with folder_in_memory() as made:
        (made / "spool").mkdir(mode=0o700)
        yield made


@pytest.fixture
def spool(folder: Path) -> Spool:
    return Spool(folder / "spool", KEYS, 10**9)


def test_room_is_promised_once(folder: Path) -> None:
    spool = Spool(folder / "spool", KEYS, 1_000_000 + 2 * OVERHEAD)
    with spool.room(600_000):
        with pytest.raises(SpoolFullError, match="budget"), spool.room(600_000):
            pass
        with spool.room(300_000):
            pass
    stored = spool.store(ENVELOPE, Stream(600_000))
    for known in (spool, Spool(folder / "spool", KEYS, 1_000_000 + 2 * OVERHEAD)):  # and after a restart
        with pytest.raises(SpoolFullError, match="budget"), known.room(600_000):
            pass
    spool.remove(stored.id)
    with spool.room(600_000):
        pass


def test_room_is_given_back_also_when_the_disk_has_gone(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_path: object) -> os.statvfs_result:
        raise OSError(errno.EIO, "gone")

    for _ in range(3):
        with monkeypatch.context() as patch, spool.room(400_000_000):
            patch.setattr(os, "statvfs", fail)


def test_more_than_the_disk_has_is_not_promised(folder: Path) -> None:
    with pytest.raises(SpoolFullError, match="disk"), Spool(folder / "spool", KEYS, 10**18).room(10**17):
        pass


@pytest.mark.parametrize(("files", "left", "full"), [(1000, INODES + 1, False), (1000, INODES, True), (0, 0, False)])
def test_without_inodes_there_is_no_room(
    spool: Spool, monkeypatch: pytest.MonkeyPatch, files: int, left: int, full: bool
) -> None:
    """The last is btrfs, which counts none."""
    counted = SimpleNamespace(f_bavail=10**6, f_frsize=4096, f_files=files, f_favail=left)
    monkeypatch.setattr(os, "statvfs", lambda _: counted)
    with pytest.raises(SpoolFullError, match="inodes") if full else contextlib.nullcontext(), spool.room(1000):
        pass


def test_so_many_items_wait_at_most(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relay.spool.MOST_ITEMS", 2)
    spool = Spool(folder / "spool", KEYS, 10**9)
    spool.store(ENVELOPE, BytesIO(b"x"))
    with spool.room(1), pytest.raises(SpoolFullError, match="items"), spool.room(1):
        pass
    with spool.room(1):
        pass


class _Bucket:
    """A place in memory."""

    def __init__(self, *, every: bool = False) -> None:
        self.every, self.full, self.broken = every, False, False
        self.items: dict[str, bytes] = {}

    def has_room(self, octets: int) -> bool:
        return not self.full and octets < 10**9

    def begin(self, name: str) -> _Upload:
        if self.broken:
            raise PlaceError("it does not answer")
        return _Upload(self, name)

    def open(self, item: QueuedItem) -> Iterator[bytes]:
        yield self.items[item.id]

    def remove(self, item: QueuedItem) -> None:
        if self.broken:
            raise PlaceError("it does not answer")
        self.items.pop(item.id, None)

    def start(self, items: Sequence[QueuedItem]) -> None:
        self.items = {item.id: self.items[item.id] for item in items}

    def stop(self) -> None:
        """Nothing runs."""

    def status(self) -> None:
        return None

    def faults(self) -> tuple[Fault, ...]:
        return ()


class _Upload:
    def __init__(self, bucket: _Bucket, name: str) -> None:
        self._bucket, self._name, self._content = bucket, name, b""

    def write(self, octets: bytes, /) -> None:
        self._content += octets

    def finish(self, sha256: str, received: int) -> None:
        if self._bucket.broken:
            raise PlaceError("it does not answer")
        assert received == ENVELOPE.received
        assert sha256 == hashlib.sha256(self._content).hexdigest()
        self._bucket.items[self._name] = self._content

    def abort(self) -> None:
        self._content = b""


def _keep(spool: Spool, octets: int, *, said: bool = True) -> QueuedItem:
    with spool.room(octets, said=said) as room:
        return spool.store(ENVELOPE, Stream(octets), room)


def test_what_the_disk_has_no_room_for_goes_elsewhere(folder: Path) -> None:
    bucket = _Bucket()
    spool = Spool(folder / "spool", KEYS, 400_000, bucket)
    here, there = _keep(spool, 200_000), _keep(spool, 300_000)
    unsaid = _keep(spool, 1000, said=False)
    assert set(bucket.items) == {there.id, unsaid.id}
    assert spool.usage() == (3, here.size)
    for known in (spool, Spool(folder / "spool", KEYS, 400_000, bucket)):
        assert known.items() == [here, there, unsaid]
        assert sealed(known, there.id) == bucket.items[there.id]
    assert [path.stat().st_size for path in (folder / "spool").glob("*.away")] == [0, 0]
    bucket.full = True
    with pytest.raises(SpoolFullError), spool.room(300_000):
        pass
    bucket.items["0" * 32] = b"left by a crash"
    bucket.start(spool.held_elsewhere(bucket))
    spool.remove(unsaid.id)
    assert set(bucket.items) == {there.id}
    assert spool.items() == [here, there]


def test_a_place_that_does_not_answer_loses_nothing(folder: Path) -> None:
    bucket = _Bucket(every=True)
    spool = Spool(folder / "spool", KEYS, 10**9, bucket)
    kept = spool.store(ENVELOPE, BytesIO(MESSAGE))
    assert sealed(spool, kept.id) == bucket.items[kept.id]
    bucket.broken = True
    with pytest.raises(SpoolFullError):
        spool.store(ENVELOPE, BytesIO(MESSAGE))
    with pytest.raises(PlaceError):
        spool.remove(kept.id)
    assert spool.items() == [kept]
    assert [path.name for path in (folder / "spool").glob("*.new")] == []
    bucket.broken = False
    spool.remove(kept.id)
    assert (spool.items(), bucket.items) == ([], {})


def test_what_fails_on_the_disk_is_taken_back_elsewhere(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = _Bucket(every=True)
    spool = Spool(folder / "spool", KEYS, 10**9, bucket)

    def fail(_folder: Path) -> None:
        raise OSError(errno.EIO, "broken")

    with monkeypatch.context() as patch:
        patch.setattr("relay.spool.sync_folder", fail)
        with pytest.raises(SpoolError):
            spool.store(ENVELOPE, BytesIO(MESSAGE))
    assert (spool.items(), bucket.items) == ([], {})


def test_without_its_place_an_item_stays(folder: Path) -> None:
    there = _keep(Spool(folder / "spool", KEYS, 0, _Bucket()), 1000)
    spool = Spool(folder / "spool", KEYS, 0)
    for act in (spool.open, spool.remove):
        with pytest.raises(PlaceError, match="settings"):
            act(there.id)
    assert spool.items() == [there]
