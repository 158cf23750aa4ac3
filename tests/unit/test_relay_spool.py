"""The spool: what was taken is there and opens with home's key, whatever happens at whichever call."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import tempfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import pyrage
import pytest

from relay.envelope import LARGEST, Envelope, EnvelopeError, Item
from relay.smtp import Mail, Recipient
from relay.spool import OVERHEAD, Spool, SpoolError, SpoolFullError
from tests.syscalls import Call, Ended, Fault, changing_calls, trace_function, why_not

_HOME, _PAPER, _STRANGER = (pyrage.x25519.Identity.generate() for _ in range(3))
_KEYS = [str(_HOME.to_public()), str(_PAPER.to_public())]
_CANARIES = (b"canary-sender", b"canary-recipient", b"canary-subject", b"192.0.2.77")
_MAIL = Mail("canary-sender@example.net", 100, utf8=True, parameters={"RET": None}, client={"ADDR": "192.0.2.77"})
_ENVELOPE = Envelope.of(_MAIL, [Recipient("canary-recipient@bücher.example", {"NOTIFY": "NEVER"})], 1_795_478_400_000)
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


def _opened(path: Path, key: pyrage.x25519.Identity = _HOME) -> tuple[Envelope, bytes]:
    content = BytesIO(pyrage.decrypt(path.read_bytes(), [key]))
    return Envelope.read(content), content.read()


@pytest.mark.parametrize("key", [_HOME, _PAPER])
def test_either_key_of_home_opens_an_item(spool: Spool, key: pyrage.x25519.Identity) -> None:
    stored = spool.store(_ENVELOPE, BytesIO(_MESSAGE))
    assert spool.items() == [stored]
    assert _opened(spool.open(stored.name), key) == (_ENVELOPE, _MESSAGE)


def test_nobody_else_reads_anything(spool: Spool, folder: Path) -> None:
    stored = spool.store(_ENVELOPE, BytesIO(_MESSAGE))
    with pytest.raises(pyrage.DecryptError):
        _opened(spool.open(stored.name), _STRANGER)
    assert spool.open(stored.name).stat().st_mode & 0o777 == 0o600

    def found() -> set[bytes]:
        texts = [str(path).encode() + path.read_bytes() for path in (folder / "spool").iterdir()]
        return {canary for canary in _CANARIES for text in texts if canary in text}

    assert found() == set()
    (folder / "spool/planted").write_bytes(b" ".join(_CANARIES))
    assert found() == set(_CANARIES)


def test_what_is_cut_short_or_changed_is_seen_at_home(spool: Spool) -> None:
    """By age: its last chunk is marked as such."""
    path = spool.open(spool.store(_ENVELOPE, BytesIO(_MESSAGE)).name)
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
    assert list((folder / "spool").iterdir()) == []


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
    spool.remove(stored.name)
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


@pytest.mark.parametrize(("files", "left", "full"), [(1000, 1, False), (1000, 0, True), (0, 0, False)])
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


def test_what_is_no_envelope_is_told() -> None:
    whole = Item(_ENVELOPE, BytesIO()).read(10**6)
    for content in (
        b"",
        whole[:-1],
        b"DPQ2" + whole[4:],
        whole[:4] + (LARGEST + 1).to_bytes(4),
        whole[:8] + b"{" * 9**3,
    ):
        with pytest.raises(EnvelopeError):
            Envelope.read(BytesIO(content))


# ---- Faults


_traced = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))


class _Walk:
    """Storing a message, and acknowledging it by a file of the item's name."""

    def __init__(self, folder: Path) -> None:
        self.scratch, self._folder = folder, folder / "spool"
        self._taken = folder / "taken"
        self._taken.mkdir()
        self.act()  # loads what every later fork has then loaded already
        self.clean = trace_function(self.act, folder)
        assert self.clean.status == 0, self.clean.output
        self.calls = changing_calls(self.clean.trace)

    def act(self) -> None:
        try:
            stored = Spool(self._folder, _KEYS, 10**9).store(_ENVELOPE, BytesIO(_MESSAGE))
        except (SpoolFullError, SpoolError):
            return
        (self._taken / stored.name).touch()

    def meet(self, call: Call, fault: Fault) -> Ended:
        """Put a fault on one call, and look at what it leaves, after a restart."""
        ended = trace_function(self.act, self.scratch, (call, fault))
        items = {item.name for item in Spool(self._folder, _KEYS, 10**9).items()}
        taken = {path.name for path in self._taken.iterdir()}
        assert taken <= items, f"{call}: a message that was taken is lost"
        assert {path.name for path in self._folder.iterdir()} == items, f"{call}: rubbish"
        for name in items:
            assert _opened(self._folder / name) == (_ENVELOPE, _MESSAGE), f"{call}: an item that does not open"
        for name in items - taken:  # it may be there twice, in the end: RFC 1047
            (self._folder / name).unlink()
        return ended


@_traced
def test_cut_at_every_call(folder: Path) -> None:
    walk = _Walk(folder)
    assert len(walk.calls) > 5
    for call in walk.calls:
        assert walk.meet(call, Fault.KILL).killed, f"{call}: not reached"


@_traced
def test_every_call_fails(folder: Path) -> None:
    walk = _Walk(folder)
    for call, fault in itertools.product(
        [call for call in walk.calls if call.touches_files], [Fault.NO_SPACE, Fault.BROKEN_DISK]
    ):
        ended = walk.meet(call, fault)
        assert "(INJECTED)" in ended.trace, f"{call}: not reached"


def _in_order(trace: str) -> bool:
    """Tell whether the item was synced before it got its name, and its folder after that and before the answer."""
    steps = [line.partition("(")[0] for line in trace.splitlines() if line.startswith(("fsync(", "rename(", "rename"))]
    return [step for step in steps if step in {"fsync", "rename", "renameat", "renameat2"}] == [
        "fsync",
        "rename",
        "fsync",
    ]


@_traced
def test_what_is_taken_has_been_synced(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No kill shows what the kernel has not written yet; the order of the calls does, and a missing one is found."""
    walk = _Walk(folder)
    assert _in_order(walk.clean.trace)
    with monkeypatch.context() as patch:
        patch.setattr(Spool, "_sync_folder", lambda _: None)
        assert not _in_order(trace_function(walk.act, folder).trace)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        assert not _in_order(trace_function(walk.act, folder).trace)


@_traced
def test_planted_bugs_are_found(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An item that has its own name from the beginning: a cut leaves half of it."""
    monkeypatch.setattr("relay.spool._PARTIAL", "")
    with pytest.raises((AssertionError, pyrage.DecryptError)):  # noqa: PT012 (a walk is one thing)
        walk = _Walk(folder)
        for call in walk.calls:
            walk.meet(call, Fault.KILL)
