"""The spool: what was taken is there, in its order, and opens with home's keys alone; and several at once."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any

import pyrage
import pytest

from model.control import QueuedItem
from model.envelope import LARGEST, MOST_RECIPIENTS, Envelope, EnvelopeError
from relay.envelope import Item
from relay.files import sync_together
from relay.room import OVERHEAD, SpoolFullError
from relay.spool import Spool, SpoolError
from tests.memory import folder_in_memory
from tests.sealed import opened, sealed
from tests.unit.spool_samples import CANARIES, ENVELOPE, HOME, KEYS, MESSAGE, PAPER, Stream

_STRANGER = pyrage.x25519.Identity.generate()


@pytest.fixture
def folder() -> Iterator[Path]:
    with folder_in_memory() as made:
        (made / "spool").mkdir(mode=0o700)
        yield made


@pytest.fixture
def spool(folder: Path) -> Spool:
    return Spool(folder / "spool", KEYS, 10**9)


def _file(spool: Spool, name: str) -> Path:
    path = spool.open(name).file
    assert path
    return path


def _opened(path: Path, key: pyrage.x25519.Identity = HOME) -> tuple[Envelope, bytes]:
    content = BytesIO(pyrage.decrypt(path.read_bytes(), [key]))
    return Envelope.read(content), content.read()


@pytest.mark.parametrize("key", [HOME, PAPER])
def test_either_key_of_home_opens_an_item(spool: Spool, key: pyrage.x25519.Identity) -> None:
    stored = spool.store(ENVELOPE, BytesIO(MESSAGE))
    assert spool.items() == [stored]
    assert _opened(_file(spool, stored.id), key) == (ENVELOPE, MESSAGE)


def test_nobody_else_reads_anything(spool: Spool, folder: Path) -> None:
    stored = spool.store(ENVELOPE, BytesIO(MESSAGE))
    with pytest.raises(pyrage.DecryptError):
        _opened(_file(spool, stored.id), _STRANGER)
    assert _file(spool, stored.id).stat().st_mode & 0o777 == 0o600

    def found() -> set[bytes]:
        texts = [str(path).encode() + path.read_bytes() for path in (folder / "spool").iterdir()]
        return {canary for canary in CANARIES for text in texts if canary in text}

    assert found() == set()
    (folder / "spool/planted").write_bytes(b" ".join(CANARIES))
    assert found() == set(CANARIES)


def test_what_is_cut_short_or_changed_is_seen_at_home(spool: Spool) -> None:
    """By age: its last chunk is marked as such."""
    path = _file(spool, spool.store(ENVELOPE, BytesIO(MESSAGE)).id)
    whole = path.read_bytes()
    # Between two of age's chunks, and elsewhere.
    for content in (whole[: len(whole) - len(whole) % 65_552], whole[:-1], whole[:-5] + b"x" + whole[-4:], whole[:100]):
        path.write_bytes(content)
        with pytest.raises(pyrage.DecryptError):
            _opened(path)


def test_a_large_message_is_sealed_piece_by_piece(spool: Spool) -> None:
    stream = Stream(25_000_000)
    stored = spool.store(ENVELOPE, stream)
    assert 25_000_000 < stored.size < 25_000_000 + OVERHEAD
    assert stream.largest <= 64 * 1024


def test_a_message_that_breaks_off_leaves_nothing(spool: Spool, folder: Path) -> None:
    with pytest.raises(ConnectionResetError, match="the client"):
        spool.store(ENVELOPE, Stream(200_000, ConnectionResetError("the client")))
    assert [path.name for path in (folder / "spool").iterdir()] == ["epoch.json"]


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
    text = json.dumps({**asdict(ENVELOPE), **change}).encode()
    return b"DPQ1" + len(text).to_bytes(4) + text


def test_what_is_no_envelope_is_told() -> None:
    assert Envelope.read(BytesIO(_written({}))) == ENVELOPE
    whole = Item(ENVELOPE, BytesIO()).read(10**6)
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
        spool = Spool(folder / "spool", KEYS, 10**9)
        stored = [spool.store(ENVELOPE, BytesIO(b"x")) for _ in range(3)]
        used += [item.sequence for item in stored]
        ids += [item.id for item in stored[:-1]]
        spool.remove(stored[-1].id)  # the last one goes, and its number with it
        epochs.add(spool.epoch)
        assert [item.id for item in spool.items()] == ids
    assert used == sorted(set(used))
    assert len(epochs) == 1
    (folder / "spool/epoch.json").write_text("garbage")
    again = Spool(folder / "spool", KEYS, 10**9)
    assert again.epoch not in epochs
    assert again.store(ENVELOPE, BytesIO(b"x")).sequence > again.items()[-2].sequence


def test_items_are_told_page_by_page(spool: Spool) -> None:
    stored = [spool.store(ENVELOPE, BytesIO(b"x")) for _ in range(5)]
    assert spool.items(most=2) == stored[:2]
    assert spool.items(after=stored[1].sequence, most=2) == stored[2:4]
    assert spool.items(after=stored[-1].sequence) == []
    spool.remove(stored[2].id)
    assert spool.items(after=stored[1].sequence) == stored[3:]
    assert spool.items(after=10**15) == []


def test_an_items_digest_is_that_of_its_octets(spool: Spool) -> None:
    stored = spool.store(ENVELOPE, BytesIO(MESSAGE))
    octets = sealed(spool, stored.id)
    assert (stored.sha256, stored.size, stored.received) == (sha256(octets).hexdigest(), len(octets), 1_795_478_400_000)


def test_many_at_once_get_their_numbers_in_the_order_in_which_they_can_be_seen(folder: Path) -> None:
    spool = Spool(folder / "spool", KEYS, 10**9)
    seen: list[QueuedItem] = []
    stop = threading.Event()

    def watch() -> None:
        while not stop.is_set() or spool.items(seen[-1].sequence if seen else 0):
            seen.extend(spool.items(seen[-1].sequence if seen else 0))

    with ThreadPoolExecutor(9) as pool:
        watching = pool.submit(watch)
        stored = list(pool.map(lambda _: spool.store(ENVELOPE, BytesIO(b"x" * 1000)), range(200)))
        stop.set()
        watching.result()
    assert seen == spool.items() == sorted(stored, key=lambda item: item.sequence)


def test_a_clock_that_jumps_changes_no_order(spool: Spool) -> None:
    jumps = (1_795_478_400_000, 0, -5, 4_000_000_000_000)
    stored = [spool.store(replace(ENVELOPE, received=when), BytesIO(b"x")) for when in jumps]
    assert spool.items() == stored
    assert [item.received for item in stored] == [1_795_478_400_000, 0, 0, 4_000_000_000_000]


@pytest.mark.parametrize("which", [(), (1,), (0, 2), (0, 1, 2)])
@pytest.mark.parametrize("call", ["sync", "rename"])
def test_of_several_only_those_that_were_kept_are_there(
    folder: Path, monkeypatch: pytest.MonkeyPatch, call: str, which: tuple[int, ...]
) -> None:
    spool = Spool(folder / "spool", KEYS, 10**9)
    spool.store(ENVELOPE, BytesIO(MESSAGE))
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
        results = spool.store_all([(ENVELOPE, BytesIO(b"%d" % number), room) for number, room in enumerate(rooms)])
    wrong = SpoolError if call == "sync" else SpoolFullError
    assert [type(one) for one in results] == [wrong if number in which else QueuedItem for number in range(3)]
    kept = [number for number in range(3) if number not in which]
    assert [message for _, message in opened(spool, HOME)] == [MESSAGE, *(b"%d" % number for number in kept)]
    again = Spool(folder / "spool", KEYS, 10**9)
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
    spool = Spool(tmp_path, KEYS, 10**9)
    asked: list[list[int]] = []

    def sync(descriptors: list[int]) -> dict[int, OSError]:
        asked.append(descriptors)
        return {}

    monkeypatch.setattr("relay.spool.sync_together", sync)
    old, young = (spool._write(ENVELOPE, BytesIO(b"x\r\n")) for _ in range(2))
    spool._commits.put([young, old])
    assert asked == [[old.descriptor, young.descriptor]]
    assert [spool._finish(one).sequence for one in (young, old)] == [1, 2]
