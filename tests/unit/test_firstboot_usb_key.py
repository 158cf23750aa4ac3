"""A key on a USB stick: where it is looked for, how it is made, and what a cut in between leaves."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from firstboot.cipher import AES_XTS
from firstboot.costs import Costs
from firstboot.key_notes import read_notes
from firstboot.luks import Luks, LuksError, Slot, Use
from firstboot.stick_unlock import beside, give_stick, watch_sticks
from firstboot.unlocking import Session, Stage
from firstboot.usb_key import StickError, Sticks, add_stick, find_fats, find_model
from stack.stack import Stack
from tests.tiers import REPOSITORY
from tests.unit.test_firstboot_luks import CONTAINER, PASSPHRASE, RECOVERY, Header2, a_container

_FILE = f"darkpipe-{CONTAINER}.key"
_KEYS = [bytes([number]) * 32 for number in range(1, 9)]


class Plugged:
    """Sticks that are folders, one after the other broken as a test wants it."""

    def __init__(self, *folders: Path) -> None:
        self.folders = list(folders)
        self.forgets = False
        self.read_only = False
        self.mounts: list[tuple[Path, bool]] = []
        self.sticks = Sticks(lambda: tuple(self.folders), self._mount, lambda stick: f"Model {stick.name}")

    @contextmanager
    def _mount(self, stick: Path, *, writable: bool) -> Iterator[Path]:
        self.mounts.append((stick, writable))
        if writable and self.read_only:
            raise subprocess.CalledProcessError(32, ("mount",), "device is write-protected\n")
        yield stick
        if writable and self.forgets:
            (stick / _FILE).write_bytes(b"\0" * 65)


@pytest.fixture
def header() -> Header2:
    """The container's header."""
    return Header2()


@pytest.fixture
def luks(header: Header2) -> Luks:
    """A container with a passphrase."""
    return a_container(header)


@pytest.fixture
def plugged(tmp_path: Path) -> Plugged:
    """One stick with something of its owner's on it."""
    folder = tmp_path / "stick"
    folder.mkdir()
    (folder / "holiday.jpg").write_bytes(b"sun")
    return Plugged(folder)


def _add(luks: Luks, plugged: Plugged, key: bytes = _KEYS[0]) -> Slot:
    return add_stick(luks, CONTAINER, PASSPHRASE, plugged.sticks, lambda: key)


def test_only_fat_on_usb_disks_is_looked_at() -> None:
    def row(path: str, tran: str | None, fstype: str | None, *parts: tuple[str, str | None]) -> dict[str, object]:
        children = [{"path": name, "type": "part", "fstype": kind} for name, kind in parts]
        return {"path": path, "type": "disk", "size": 9, "tran": tran, "fstype": fstype, "children": children}

    rows = [
        row("/dev/sda", "usb", None, ("/dev/sda1", "vfat"), ("/dev/sda5", "ext4")),
        row("/dev/sdb", "usb", None, ("/dev/sdb1", "exfat"), ("/dev/sdb2", "vfat")),
        row("/dev/sdc", "usb", "vfat"),
        row("/dev/sdd", "sata", None, ("/dev/sdd1", "vfat")),
        row("/dev/sde", "usb", None),
    ]
    assert find_fats(rows, Path("/dev/sda")) == (Path("/dev/sdb2"), Path("/dev/sdc"))
    assert find_fats(rows, Path("/dev/sdd")) == (Path("/dev/sda1"), Path("/dev/sdb2"), Path("/dev/sdc"))


def test_a_stick_says_what_it_is() -> None:
    rows: list[dict[str, Any]] = [
        {"path": "/dev/sda", "model": None},
        {"path": "/dev/sdb", "model": "Ultra\x1b[2J Fit ", "children": [{"path": "/dev/sdb1"}]},
        {"path": "/dev/sdc", "model": "x" * 99},
    ]
    assert find_model(rows, Path("/dev/sdb1")) == "Ultra\ufffd[2J Fit"
    assert find_model(rows, Path("/dev/sdc")) == "x" * 40
    assert find_model(rows, Path("/dev/sda")) == find_model(rows, Path("/dev/sdd1")) == ""


def test_a_stick_gets_a_key_and_keeps_what_it_has(luks: Luks, plugged: Plugged) -> None:
    assert _add(luks, plugged) == Slot(2, Use.USB_KEY)
    (folder,) = plugged.folders
    assert (folder / "holiday.jpg").read_bytes() == b"sun"
    assert {path.name for path in folder.iterdir()} == {"holiday.jpg", _FILE}
    (key,) = plugged.sticks.keys(CONTAINER)
    assert luks.open(key, Use.USB_KEY)
    assert not luks.open(key, Use.PASSPHRASE), "nobody can type it"
    assert list(plugged.sticks.keys(UUID(int=8))) == [], "another disk's key is another file"
    with pytest.raises(StickError, match="unlocks this disk already"):
        _add(luks, plugged, _KEYS[1])


def test_the_keys_of_two_devices_are_two() -> None:
    """The default key is made at random."""
    first, second = (add_stick.__defaults__ or ())[-1], (add_stick.__defaults__ or ())[-1]
    assert len(first()) == 32
    assert first() != second()


@pytest.mark.parametrize("content", [b"", b"\0" * 65, b"00" * 31, b"00" * 33, b"zz" * 32, b"ab" * 4000])
def test_what_is_no_key_is_none(luks: Luks, plugged: Plugged, content: bytes) -> None:
    (folder,) = plugged.folders
    (folder / _FILE).write_bytes(content)
    assert list(plugged.sticks.keys(CONTAINER)) == []
    assert _add(luks, plugged).use is Use.USB_KEY
    assert list(plugged.sticks.keys(CONTAINER)) == [_KEYS[0]]


def test_one_stick_is_meant(luks: Luks, plugged: Plugged, tmp_path: Path) -> None:
    plugged.folders.append(tmp_path / "other")
    with pytest.raises(StickError, match="several sticks with FAT"):
        _add(luks, plugged)
    plugged.folders.clear()
    with pytest.raises(StickError, match="formatted as FAT32"):
        _add(luks, plugged)
    assert len(luks.slots()) == 2


def test_a_stick_that_keeps_nothing_is_not_trusted(luks: Luks, plugged: Plugged) -> None:
    plugged.forgets = True
    with pytest.raises(StickError, match="does not keep"):
        _add(luks, plugged)
    plugged.read_only = True
    with pytest.raises(StickError, match="write-protected"):
        _add(luks, plugged)
    assert len(luks.slots()) == 2


def test_a_key_that_was_revoked_is_never_let_in_again(luks: Luks, plugged: Plugged) -> None:
    slot = _add(luks, plugged)
    luks.remove(slot.number)
    assert _add(luks, plugged, _KEYS[1]).use is Use.USB_KEY
    assert not luks.fits(_KEYS[0], Use.USB_KEY)
    assert luks.fits(_KEYS[1], Use.USB_KEY)


class Cut:
    """A cryptsetup(8) whose power goes before one of its calls."""

    def __init__(self) -> None:
        self.header = Header2()
        self.left: int | None = None

    def __call__(self, words: Sequence[str], keys: Sequence[bytes]) -> subprocess.CompletedProcess[str]:
        if self.left == 0:
            raise KeyboardInterrupt
        if self.left is not None:
            self.left -= 1
        return self.header(words, keys)


def _cut_at(call: int, plugged: Plugged) -> bool:
    """Add a key, cut before a call, and again; tells whether there was such a call."""
    tool = Cut()
    luks = Luks(Path("/dev/sda1"), tool)
    luks.format(CONTAINER, AES_XTS, RECOVERY, Use.RECOVERY)
    luks.add(RECOVERY, PASSPHRASE, Use.PASSPHRASE, Costs(65536, 4, 1))
    tool.left = call
    cut = False
    try:
        _add(luks, plugged, _KEYS[0])
    except KeyboardInterrupt:
        cut = True
    tool.left = None
    assert luks.fits(PASSPHRASE, Use.PASSPHRASE)
    if cut:
        _add(luks, plugged, _KEYS[1])
    assert [slot.use for slot in luks.slots()] == [Use.RECOVERY, Use.PASSPHRASE, Use.USB_KEY]
    (key,) = plugged.sticks.keys(CONTAINER)
    assert luks.fits(key, Use.USB_KEY)
    (plugged.folders[0] / _FILE).unlink()
    return cut


def test_cut_at_every_call_the_disk_opens_and_doing_it_again_ends_well(plugged: Plugged) -> None:
    """The power goes before each call of cryptsetup, one after the other."""
    calls = next(call for call in range(99) if not _cut_at(call, plugged))
    assert calls >= 3, "before looking at the slots, before the new slot, and before its name"


def _by(luks: Luks) -> Callable[[bytes], bool]:
    return lambda key: luks.open(key, Use.USB_KEY)


def _session(opened: list[str]) -> Session:
    def unlock(typed: str) -> bool:
        opened.append(typed)
        return typed == "right"

    return Session(new=False, make=lambda *_: None, unlock=unlock, clock=lambda: 0.0)


def test_a_stick_that_is_plugged_in_later_unlocks(luks: Luks, plugged: Plugged) -> None:
    _add(luks, plugged)
    folders, plugged.folders = plugged.folders, []
    session = _session([])
    looks = 0

    def devices() -> int:
        nonlocal looks
        looks += 1
        if looks == 2:
            plugged.folders = folders
        return looks

    session.finished.wait = lambda timeout=None: True  # type: ignore[method-assign]
    watch_sticks(session, luks, CONTAINER, plugged.sticks, devices, _by(luks), lambda: None)
    assert looks == 2
    assert session.view().stage is Stage.OPEN


def test_no_stick_stays_mounted_when_somebody_else_was_faster(luks: Luks, plugged: Plugged) -> None:
    """The service goes on to the mail, and ends; nobody would unmount the stick until the next start."""
    _add(luks, plugged)
    session, mounted, left = _session([]), threading.Event(), []

    @contextmanager
    def slow(stick: Path, *, writable: bool) -> Iterator[Path]:
        mounted.set()
        session.finished.wait(5)
        time.sleep(0.05)
        yield stick
        left.append(writable)

    sticks = Sticks(lambda: tuple(plugged.folders), slow)
    with beside(lambda: watch_sticks(session, luks, CONTAINER, sticks, lambda: 1, _by(luks), lambda: None)):
        assert mounted.wait(5)
        session.unlock("right", stranger=False)
    assert left == [False]


def test_without_a_slot_for_it_no_stick_is_mounted(luks: Luks, plugged: Plugged) -> None:
    (plugged.folders[0] / _FILE).write_text(_KEYS[0].hex())
    session = _session([])
    watch_sticks(session, luks, CONTAINER, plugged.sticks, lambda: 1, _by(luks), lambda: None)
    assert plugged.mounts == []
    assert session.view().stage is Stage.LOCKED


def test_a_wrong_key_leaves_the_page_to_whoever_types(luks: Luks, plugged: Plugged) -> None:
    _add(luks, plugged)
    (plugged.folders[0] / _FILE).write_text(_KEYS[1].hex())
    opened: list[str] = []
    session = _session(opened)

    def devices() -> int:
        # The first look has found nothing that opens it; somebody types.
        session.unlock("right", stranger=True) if plugged.mounts[2:] else None
        return len(plugged.mounts)

    session.finished.wait = lambda timeout=None: True  # type: ignore[method-assign]
    watch_sticks(session, luks, CONTAINER, plugged.sticks, devices, _by(luks), lambda: None)
    assert opened == ["right"]
    assert session.view().stage is Stage.OPEN


def test_a_broken_header_or_stick_ends_nothing(
    luks: Luks, plugged: Plugged, capsys: pytest.CaptureFixture[str]
) -> None:
    _add(luks, plugged)
    session = _session([])
    looks = 0

    def settle() -> None:
        nonlocal looks
        looks += 1
        if looks == 1:
            raise LuksError("torn")

    session.finished.wait = lambda timeout=None: True  # type: ignore[method-assign]
    watch_sticks(session, luks, CONTAINER, plugged.sticks, lambda: looks, _by(luks), settle)
    assert "torn" in capsys.readouterr().out
    assert session.view().stage is Stage.OPEN


def test_a_first_start_without_a_stick_says_what_to_do(
    luks: Luks, plugged: Plugged, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack = Stack.load(REPOSITORY / "components")
    monkeypatch.setattr(Stack, "load", lambda: stack)
    (tmp_path / "data").mkdir()
    told: list[str] = []
    announced: list[str] = []
    give_stick(luks, CONTAINER, RECOVERY, plugged.sticks, told.append, announced.append, tmp_path / "data")
    assert (told, announced) == (["putting a key on the USB stick"], [])
    assert luks.slots()[-1].use is Use.USB_KEY
    assert read_notes(luks, tmp_path / "data")[2].stick == "Model stick"
    plugged.folders.clear()
    give_stick(luks, CONTAINER, RECOVERY, plugged.sticks, told.append, announced.append, tmp_path / "data")
    assert "darkpipe disk change-policy usb-key" in announced[0]
