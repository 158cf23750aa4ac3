"""The spool: what was taken is there and opens with home's key, whatever happens at whichever call."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyrage
import pytest

from model.control import Fault, QueuedItem
from model.envelope import LARGEST, MOST_RECIPIENTS, Envelope, EnvelopeError
from relay.envelope import Item, envelope_of
from relay.files import sync_together
from relay.place import PlaceError
from relay.room import OVERHEAD, SpoolFullError
from relay.smtp import Mail, Recipient
from relay.spool import INODES, Spool, SpoolError
from tests.sealed import opened, sealed

_HOME, _PAPER, _STRANGER = (pyrage.x25519.Identity.generate() for _ in range(3))
_KEYS = [str(_HOME.to_public()), str(_PAPER.to_public())]
_CANARIES = (b"canary-sender", b"canary-recipient", b"canary-subject", b"192.0.2.77")
_MAIL = Mail("canary-sender@example.net", 100, utf8=True, parameters={"RET": None}, client={"ADDR": "192.0.2.77"})
_ENVELOPE = envelope_of(_MAIL, [Recipient("canary-recipient@bücher.example", {"NOTIFY": "NEVER"})], 1_795_478_400_000)
_MESSAGE = b"Subject: canary-subject\r\n\r\n" + b"\0\xff\n" * 50_000


@pytest.fixture
def folder() -> Iterator[Path]:
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as name:
        (Path(name) / "spool").mkdir(mode=0o700)
        yield Path(name)


@pytest.fixture
def spool(folder: Path) -> Spool:
    return Spool(folder / "spool", _KEYS, 10**9)


def _file(spool: Spool, name: str) -> Path:
    path = spool.open(name).file
    assert path
    return path


def _opened(path: Path, key: pyrage.x25519.Identity = _HOME) -> tuple[Envelope, bytes]:
    content = BytesIO(pyrage.decrypt(path.read_bytes(), [key]))
    return Envelope.read(content), content.read()


@pytest.mark.parametrize("key", [_HOME, _PAPER])
def test_either_key_of_home_opens_an_item(spool: Spool, key: pyrage.x25519.Identity) -> None:
    stored = spool.store(_ENVELOPE, BytesIO(_MESSAGE))
    assert spool.items() == [stored]
    assert _opened(_file(spool, stored.id), key) == (_ENVELOPE, _MESSAGE)


def test_nobody_else_reads_anything(spool: Spool, folder: Path) -> None:
    stored = spool.store(_ENVELOPE, BytesIO(_MESSAGE))
    with pytest.raises(pyrage.DecryptError):
        _opened(_file(spool, stored.id), _STRANGER)
    assert _file(spool, stored.id).stat().st_mode & 0o777 == 0o600

    def found() -> set[bytes]:
        texts = [str(path).encode() + path.read_bytes() for path in (folder / "spool").iterdir()]
        return {canary for canary in _CANARIES for text in texts if canary in text}

    assert found() == set()
    (folder / "spool/planted").write_bytes(b" ".join(_CANARIES))
    assert found() == set(_CANARIES)


def test_what_is_cut_short_or_changed_is_seen_at_home(spool: Spool) -> None:
    """By age: its last chunk is marked as such."""
    path = _file(spool, spool.store(_ENVELOPE, BytesIO(_MESSAGE)).id)
    whole = path.read_bytes()
    # Between two of age's chunks, and elsewhere.
    for content in (whole[: len(whole) - len(whole) % 65_552], whole[:-1], whole[:-5] + b"x" + whole[-4:], whole[:100]):
        path.write_bytes(content)
        with pytest.raises(pyrage.DecryptError):
            _opened(path)


class _Stream:
    """A message of many octets that never lie in memory at once."""

    def __init__(self, size: int, failure: Exception | None = None) -> None:
        self._left, self._failure = size, failure
        self.largest = 0

    def read(self, size: int, /) -> bytes:
        self.largest = max(self.largest, size)
        if not self._left and self._failure:
            raise self._failure
        piece = b"x" * min(size, self._left)
        self._left -= len(piece)
        return piece


def test_a_large_message_is_sealed_piece_by_piece(spool: Spool) -> None:
    stream = _Stream(25_000_000)
    stored = spool.store(_ENVELOPE, stream)
    assert 25_000_000 < stored.size < 25_000_000 + OVERHEAD
    assert stream.largest <= 64 * 1024


def test_a_message_that_breaks_off_leaves_nothing(spool: Spool, folder: Path) -> None:
    with pytest.raises(ConnectionResetError, match="the client"):
        spool.store(_ENVELOPE, _Stream(200_000, ConnectionResetError("the client")))
    assert [path.name for path in (folder / "spool").iterdir()] == ["epoch.json"]


def test_room_is_promised_once(folder: Path) -> None:
    spool = Spool(folder / "spool", _KEYS, 1_000_000 + 2 * OVERHEAD)
    with spool.room(600_000):
        with pytest.raises(SpoolFullError, match="budget"), spool.room(600_000):
            pass
        with spool.room(300_000):
            pass
    stored = spool.store(_ENVELOPE, _Stream(600_000))
    for known in (spool, Spool(folder / "spool", _KEYS, 1_000_000 + 2 * OVERHEAD)):  # and after a restart
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
    with pytest.raises(SpoolFullError, match="disk"), Spool(folder / "spool", _KEYS, 10**18).room(10**17):
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


@pytest.mark.parametrize("name", ["", "..", "../key", "0" * 31, "A" * 32, "0" * 32])
def test_names_of_others_lead_nowhere(spool: Spool, folder: Path, name: str) -> None:
    (folder / "key").write_text("secret")
    with pytest.raises(KeyError):
        spool.open(name)
    with pytest.raises(KeyError):
        spool.remove(name)


_NONSENSE: Sequence[Mapping[str, Any]] = (
    {"sender": None},
    {"sender": "a@example.net>\r\nRSET"},
    {"sender": "\ud800@example.net"},
    {"recipients": []},
    {"recipients": [["", {}]]},
    {"recipients": [["a@example.com", {}]] * (MOST_RECIPIENTS + 1)},
    {"recipients": [["a@example.com", {"NOTIFY": 5}]]},
    {"recipients": {"a@example.com": {}}},
    {"parameters": {"RET\n": None}},
    {"client": {"HELO": None}},
    {"client": []},
    {"received": "soon"},
    {"received": float("inf")},
)
"""What nobody can have said in a session, in the place of what somebody has said."""


def _written(change: Mapping[str, Any]) -> bytes:
    text = json.dumps({**asdict(_ENVELOPE), **change}).encode()
    return b"DPQ1" + len(text).to_bytes(4) + text


def test_what_is_no_envelope_is_told() -> None:
    assert Envelope.read(BytesIO(_written({}))) == _ENVELOPE
    whole = Item(_ENVELOPE, BytesIO()).read(10**6)
    for content in (
        b"",
        whole[:-1],
        b"DPQ2" + whole[4:],
        whole[:4] + (LARGEST + 1).to_bytes(4),
        whole[:8] + b"{" * 9**3,
        *(_written(change) for change in _NONSENSE),
    ):
        with pytest.raises(EnvelopeError):
            Envelope.read(BytesIO(content))


def test_order_and_numbers_survive_a_restart_and_none_is_used_twice(folder: Path) -> None:
    used: list[int] = []
    ids: list[str] = []
    epochs = set()
    for _ in range(4):
        spool = Spool(folder / "spool", _KEYS, 10**9)
        stored = [spool.store(_ENVELOPE, BytesIO(b"x")) for _ in range(3)]
        used += [item.sequence for item in stored]
        ids += [item.id for item in stored[:-1]]
        spool.remove(stored[-1].id)  # the last one goes, and its number with it
        epochs.add(spool.epoch)
        assert [item.id for item in spool.items()] == ids
    assert used == sorted(set(used))
    assert len(epochs) == 1
    (folder / "spool/epoch.json").write_text("garbage")
    again = Spool(folder / "spool", _KEYS, 10**9)
    assert again.epoch not in epochs
    assert again.store(_ENVELOPE, BytesIO(b"x")).sequence > again.items()[-2].sequence


def test_items_are_told_page_by_page(spool: Spool) -> None:
    stored = [spool.store(_ENVELOPE, BytesIO(b"x")) for _ in range(5)]
    assert spool.items(most=2) == stored[:2]
    assert spool.items(after=stored[1].sequence, most=2) == stored[2:4]
    assert spool.items(after=stored[-1].sequence) == []
    spool.remove(stored[2].id)
    assert spool.items(after=stored[1].sequence) == stored[3:]
    assert spool.items(after=10**15) == []


def test_an_items_digest_is_that_of_its_octets(spool: Spool) -> None:
    stored = spool.store(_ENVELOPE, BytesIO(_MESSAGE))
    octets = sealed(spool, stored.id)
    assert (stored.sha256, stored.size, stored.received) == (sha256(octets).hexdigest(), len(octets), 1_795_478_400_000)


def test_many_at_once_get_their_numbers_in_the_order_in_which_they_can_be_seen(folder: Path) -> None:
    spool = Spool(folder / "spool", _KEYS, 10**9)
    seen: list[QueuedItem] = []
    stop = threading.Event()

    def watch() -> None:
        while not stop.is_set() or spool.items(seen[-1].sequence if seen else 0):
            seen.extend(spool.items(seen[-1].sequence if seen else 0))

    with ThreadPoolExecutor(9) as pool:
        watching = pool.submit(watch)
        stored = list(pool.map(lambda _: spool.store(_ENVELOPE, BytesIO(b"x" * 1000)), range(200)))
        stop.set()
        watching.result()
    assert seen == spool.items() == sorted(stored, key=lambda item: item.sequence)


def test_a_clock_that_jumps_changes_no_order(spool: Spool) -> None:
    jumps = (1_795_478_400_000, 0, -5, 4_000_000_000_000)
    stored = [spool.store(replace(_ENVELOPE, received=when), BytesIO(b"x")) for when in jumps]
    assert spool.items() == stored
    assert [item.received for item in stored] == [1_795_478_400_000, 0, 0, 4_000_000_000_000]


def test_so_many_items_wait_at_most(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relay.spool.MOST_ITEMS", 2)
    spool = Spool(folder / "spool", _KEYS, 10**9)
    spool.store(_ENVELOPE, BytesIO(b"x"))
    with spool.room(1), pytest.raises(SpoolFullError, match="items"), spool.room(1):
        pass
    with spool.room(1):
        pass


# ---- A place besides the disk


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
        assert received == _ENVELOPE.received
        assert sha256 == hashlib.sha256(self._content).hexdigest()
        self._bucket.items[self._name] = self._content

    def abort(self) -> None:
        self._content = b""


def _keep(spool: Spool, octets: int, *, said: bool = True) -> QueuedItem:
    with spool.room(octets, said=said) as room:
        return spool.store(_ENVELOPE, _Stream(octets), room)


def test_what_the_disk_has_no_room_for_goes_elsewhere(folder: Path) -> None:
    bucket = _Bucket()
    spool = Spool(folder / "spool", _KEYS, 400_000, bucket)
    here, there = _keep(spool, 200_000), _keep(spool, 300_000)
    unsaid = _keep(spool, 1000, said=False)
    assert set(bucket.items) == {there.id, unsaid.id}
    assert spool.usage() == (3, here.size)
    for known in (spool, Spool(folder / "spool", _KEYS, 400_000, bucket)):
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
    spool = Spool(folder / "spool", _KEYS, 10**9, bucket)
    kept = spool.store(_ENVELOPE, BytesIO(_MESSAGE))
    assert sealed(spool, kept.id) == bucket.items[kept.id]
    bucket.broken = True
    with pytest.raises(SpoolFullError):
        spool.store(_ENVELOPE, BytesIO(_MESSAGE))
    with pytest.raises(PlaceError):
        spool.remove(kept.id)
    assert spool.items() == [kept]
    assert [path.name for path in (folder / "spool").glob("*.new")] == []
    bucket.broken = False
    spool.remove(kept.id)
    assert (spool.items(), bucket.items) == ([], {})


def test_what_fails_on_the_disk_is_taken_back_elsewhere(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = _Bucket(every=True)
    spool = Spool(folder / "spool", _KEYS, 10**9, bucket)

    def fail(_folder: Path) -> None:
        raise OSError(errno.EIO, "broken")

    with monkeypatch.context() as patch:
        patch.setattr("relay.spool.sync_folder", fail)
        with pytest.raises(SpoolError):
            spool.store(_ENVELOPE, BytesIO(_MESSAGE))
    assert (spool.items(), bucket.items) == ([], {})


def test_without_its_place_an_item_stays(folder: Path) -> None:
    there = _keep(Spool(folder / "spool", _KEYS, 0, _Bucket()), 1000)
    spool = Spool(folder / "spool", _KEYS, 0)
    for act in (spool.open, spool.remove):
        with pytest.raises(PlaceError, match="settings"):
            act(there.id)
    assert spool.items() == [there]


@pytest.mark.parametrize("which", [(), (1,), (0, 2), (0, 1, 2)])
@pytest.mark.parametrize("call", ["sync", "rename"])
def test_of_several_only_those_that_were_kept_are_there(
    folder: Path, monkeypatch: pytest.MonkeyPatch, call: str, which: tuple[int, ...]
) -> None:
    spool = Spool(folder / "spool", _KEYS, 10**9)
    spool.store(_ENVELOPE, BytesIO(_MESSAGE))
    rename, renamed = Path.rename, iter(range(3))

    def sync(descriptors: Sequence[int]) -> dict[int, OSError]:
        return {one: OSError(errno.EIO, "broken") for number, one in enumerate(descriptors) if number in which}

    def name(path: Path, target: Path) -> Path:
        if next(renamed) in which:
            raise OSError(errno.ENOSPC, "full")
        return rename(path, target)

    with monkeypatch.context() as patch, contextlib.ExitStack() as stack:
        patch.setattr("relay.spool.sync_together", sync) if call == "sync" else patch.setattr(Path, "rename", name)
        rooms = [stack.enter_context(spool.room(100)) for _ in range(3)]
        results = spool.store_all([(_ENVELOPE, BytesIO(b"%d" % number), room) for number, room in enumerate(rooms)])
    wrong = SpoolError if call == "sync" else SpoolFullError
    assert [type(one) for one in results] == [wrong if number in which else QueuedItem for number in range(3)]
    kept = [number for number in range(3) if number not in which]
    assert [message for _, message in opened(spool, _HOME)] == [_MESSAGE, *(b"%d" % number for number in kept)]
    again = Spool(folder / "spool", _KEYS, 10**9)
    assert again.items() == spool.items()
    assert len(list((folder / "spool").iterdir())) == len(spool.items()) + 1


def test_several_files_are_synced_by_one_call_and_its_failure_is_that_of_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context((tmp_path / str(number)).open("wb")).fileno() for number in range(3)]
        assert sync_together(files) == {}
        assert sync_together([]) == {}
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", _broken)
            assert sync_together(files) == {}, "one syncfs(2)"
            assert sync_together(files[:1]).keys() == {files[0]}
            patch.setattr("relay.files._SYNCFS_TELLS", False)
            assert sync_together(files).keys() == set(files)
    assert {one.errno for one in sync_together([-1, -1]).values()} == {errno.EBADF}


def _broken(_descriptor: int) -> None:
    raise OSError(errno.EIO, "broken")


def test_the_file_that_was_opened_first_is_synced_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It alone is told of what went wrong with it before the others were opened (syncfs(2))."""
    spool = Spool(tmp_path, _KEYS, 10**9)
    asked: list[list[int]] = []

    def sync(descriptors: list[int]) -> dict[int, OSError]:
        asked.append(descriptors)
        return {}

    monkeypatch.setattr("relay.spool.sync_together", sync)
    old, young = (spool._write(_ENVELOPE, BytesIO(b"x\r\n")) for _ in range(2))
    spool._commits.put([young, old])
    assert asked == [[old.descriptor, young.descriptor]]
    assert [spool._finish(one).sequence for one in (young, old)] == [1, 2]
