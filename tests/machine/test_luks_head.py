"""Heads that a thief has written, planted in a container that the device's cryptsetup(8) has made.

It takes each of them, and the right passphrase fits: without the device's own look at the head it would open.
Containers have no device mapper, so that what is shown stops where the mapping would begin.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from firstboot import disk, door, opening
from firstboot.cipher import ADIANTUM, AES_XTS, Cipher
from firstboot.costs import Costs
from firstboot.data_place import Place, Record, read_record
from firstboot.door import Door
from firstboot.luks import Luks, LuksError, Use
from firstboot.opening import Places, open_disk
from firstboot.other_disks import Volume
from firstboot.partitions import DiskError
from firstboot.unlock_socket import Asking
from firstboot.unlocking import Refused, Session, Stage
from tests.machine.writes import wrap

_RECOVERY, _PASSPHRASE = b"r" * 16, b"eleven quiet geese"
_DISK = UUID(int=7)
_SIZE = 17 * 2**20

_COPIES, _HEADER, _TEXT = (0, 16384), 16384, 4096
"""Where the headers lie, their size, and where in each its text begins (LUKS2 On-Disk Format 1.1.1, §2)."""
_CHECKSUM = slice(448, 448 + 64)

Metadata = dict[str, Any]


@pytest.fixture(autouse=True)
def _own_cryptsetup(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrapper = wrap(root, "usr/sbin/cryptsetup", tmp_path)
    monkeypatch.setenv("PATH", f"{wrapper.parent}:/usr/sbin:/usr/bin:/sbin:/bin")
    monkeypatch.delenv("RECORD", raising=False)


def _container(partition: Path, cipher: Cipher) -> Luks:
    with partition.open("wb") as file:
        file.truncate(_SIZE)
    made = Luks(partition)
    made.format(_DISK, cipher, _RECOVERY, Use.RECOVERY)
    made.add(_RECOVERY, _PASSPHRASE, Use.PASSPHRASE, None)
    made.finish("darkpipe-data")
    return made


@pytest.fixture
def luks(tmp_path: Path) -> Luks:
    """A container in a file."""
    return _container(tmp_path / "disk", AES_XTS)


def _plant(partition: Path, change: Callable[[Metadata], object]) -> None:
    """Change what both headers say, as whoever has the disk in hand can."""
    with partition.open("r+b") as file:
        for place in _COPIES:
            file.seek(place)
            block = bytearray(file.read(_HEADER))
            metadata = json.loads(block[_TEXT:].split(b"\0", 1)[0])
            change(metadata)
            block[_TEXT:] = json.dumps(metadata).encode().ljust(_HEADER - _TEXT, b"\0")
            block[_CHECKSUM] = bytes(64)
            block[_CHECKSUM] = hashlib.sha256(block).digest().ljust(64, b"\0")
            file.seek(place)
            file.write(block)


def _plain_data(metadata: Metadata) -> None:
    metadata["segments"]["0"]["encryption"] = "cipher_null-ecb"


def _linear_data(metadata: Metadata) -> None:
    whole = metadata["segments"]["0"]
    end = int(whole["offset"]) + 4096
    metadata["segments"] = {
        "0": {**whole, "size": "4096"},
        "1": {"type": "linear", "offset": str(end), "size": "dynamic"},
    }


def _another_mode(metadata: Metadata) -> None:
    metadata["segments"]["0"]["encryption"] = "aes-ecb"


def _open_slot(metadata: Metadata) -> None:
    metadata["keyslots"]["0"]["area"]["encryption"] = "cipher_null-ecb"


_PLANTED = {"plain": _plain_data, "linear": _linear_data, "ecb": _another_mode, "slot": _open_slot}


@pytest.mark.parametrize("cipher", [AES_XTS, ADIANTUM], ids=str)
def test_what_the_device_makes_is_its_own(tmp_path: Path, cipher: Cipher) -> None:
    try:
        made = _container(tmp_path / "disk", cipher)
    except LuksError as error:
        if cipher is AES_XTS or "kernel" not in str(error):
            raise
        pytest.skip(f"this computer's kernel has no Adiantum: {error}")
    assert made.why_not_ours() is None
    made.add(_PASSPHRASE, b"a long passphrase", Use.PASSPHRASE, Costs(65536, 4, 1))
    made.remove(1)
    assert made.why_not_ours() is None


@pytest.mark.parametrize("name", _PLANTED)
def test_a_planted_head_is_refused_though_the_right_passphrase_fits(luks: Luks, name: str) -> None:
    _plant(luks.partition, lambda _: None)
    assert luks.why_not_ours() is None, "the control: writing the same text changes nothing"
    _plant(luks.partition, _PLANTED[name])
    assert luks.fits(_PASSPHRASE, Use.PASSPHRASE), "cryptsetup would open it, and check no more than the key"
    before = luks.partition.read_bytes()
    assert luks.why_not_ours() is not None
    assert luks.partition.read_bytes() == before


@dataclass
class Told:
    """What page, console and SSH are told."""

    console: list[str] = field(default_factory=list)
    sessions: list[Session] = field(default_factory=list)

    @contextlib.contextmanager
    def serve(self, session: Asking, _: str) -> Iterator[Callable[[Asking], None]]:
        assert isinstance(session, Session)
        self.sessions.append(session)
        yield lambda _: None


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    """Stands for them."""
    found = Told()
    monkeypatch.setattr(opening, "announce", found.console.append)
    monkeypatch.setattr(door, "ensure_page_certificate", lambda _: "AB")
    monkeypatch.setattr(opening, "_LOOK_AGAIN", 0.02)
    monkeypatch.setattr(opening, "beside", lambda _: contextlib.nullcontext())
    return found


def _open(partition: Path, state: Path, told: Told) -> Callable[[], str]:
    """Open a disk that this device knows, on a thread; gives what waits for its end, and gives the error's text."""
    record = Record(place=Place.OTHER, uuid=_DISK, encrypted=True)
    failed: list[str] = []

    def work() -> None:
        try:
            with Door(state, open_socket=told.serve) as way:
                open_disk(partition, record, Places(state, state / "data", lambda _: None), way)
        except DiskError as error:
            failed.append(str(error))

    worker = threading.Thread(target=work, daemon=True)
    worker.start()

    def ended() -> str:
        worker.join(10)
        assert not worker.is_alive()
        return "".join(failed)

    return ended


def _served(told: Told) -> Session:
    for _ in range(500):
        if told.sessions:
            return told.sessions[0]
        time.sleep(0.02)
    raise AssertionError("nobody is told anything")


def test_nobody_is_asked_for_the_passphrase_of_such_a_disk(luks: Luks, tmp_path: Path, told: Told) -> None:
    """The device says why, on console and page, until the disk is unplugged; and writes nothing to it."""
    _plant(luks.partition, _plain_data)
    before = luks.partition.read_bytes()
    ended = _open(luks.partition, tmp_path, told)
    session = _served(told)
    assert session.view().stage is Stage.REFUSED
    assert "encrypted with cipher_null-ecb" in session.view().text
    (text,) = told.console
    assert "SOMEBODY MAY HAVE HAD THE DISK IN HAND" in text
    for stranger in (True, False):
        with pytest.raises(Refused, match="somebody else has written to its head"):
            session.unlock(_PASSPHRASE.decode(), stranger=stranger)
    assert not session.finished.is_set()
    assert luks.partition.read_bytes() == before
    luks.partition.rename(tmp_path / "unplugged")
    assert "was unplugged" in ended()


def test_a_whole_disk_is_asked_for(luks: Luks, tmp_path: Path, told: Told) -> None:
    """The control: with the head as it was made, somebody waits for the passphrase."""
    _open(luks.partition, tmp_path, told)
    session = _served(told)
    assert session.view().stage is Stage.LOCKED
    assert told.console == []
    session.offer(lambda: True)


def test_such_a_disk_is_not_adopted(luks: Luks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that has not seen it before does not take note of it either."""
    monkeypatch.setattr(disk, "_STATE", tmp_path)
    volume = Volume(luks.partition, _DISK, encrypted=True)
    _plant(luks.partition, _plain_data)
    with pytest.raises(DiskError, match="cipher_null-ecb"):
        disk._adopt(volume, encrypted=True)
    assert read_record(tmp_path) is None
    _plant(luks.partition, lambda metadata: metadata["segments"]["0"].update(encryption=AES_XTS.specification))
    disk._adopt(volume, encrypted=True)
    record = read_record(tmp_path)
    assert record is not None
    assert record.uuid == _DISK
