"""A device at its first start, with disks of files, for the tests of where data lies."""

from __future__ import annotations

import itertools
import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import pytest

from firstboot import disk as firstboot_disk
from firstboot import door as firstboot_door
from firstboot.data_place import (
    read_seed,
)
from firstboot.disk import Found, find_data
from firstboot.door import Door
from firstboot.making import ensure_file_system
from firstboot.other_disks import OtherDisk, Volume
from firstboot.partitions import Disk
from firstboot.site_asking import SiteSession
from firstboot.unlock_socket import Asking
from model.document import SEED_NAME
from model.layout import FileSystem, Layout, Table
from model.site import UnlockPolicy
from tests.unit.test_firstboot_superblock import superblock

OURS, THEIRS = uuid.UUID(int=1), uuid.UUID(int=2)
EMPTY = OtherDisk(Path("/dev/sda"), "Ultra Fit", 32 * 10**9, usb=True)
VOLUME = Volume(Path("/dev/sdb1"), OURS)
DATA = OtherDisk(Path("/dev/sdb"), "T7", 10**12, usb=True, content="1 partition", volumes=(VOLUME,))
STRANGER = replace(DATA, device=Path("/dev/sdd"), volumes=(Volume(Path("/dev/sdd1"), THEIRS),))
PHOTOS = OtherDisk(Path("/dev/sde"), "Elements", 10**12, usb=True, content="1 partition (ntfs “Photos”)")

_STICK = Path("/dev/sda")
PART = "0f0f0f0f-0000-4000-8000-000000000001"


@dataclass
class World:
    """A device at its first start, and what is plugged in.

    Args:
        stick: the USB disk: empty, half made with a seed, or whole.
        made: how often systemd-repart(8) was called.
        asked: what was wrong with the seed, each time when a person was asked for a site.
        meanwhile: what people do then.
        waits: what page and SSH say while a disk is waited for.
    """

    folder: Path
    wish: str = "usb"
    encrypted: bool = False
    seed: uuid.UUID | None = None
    whole: bool = False
    made: int = 0
    plugged: tuple[OtherDisk, ...] = ()
    told: list[str] = field(default_factory=list)
    has_boot: bool = True
    asked: list[str] = field(default_factory=list)
    meanwhile: Callable[[SiteSession], object] = lambda _: None
    waits: str = ""

    @property
    def state(self) -> Path:
        return self.folder / "state"

    def start(self) -> Path:
        return self.find().partition

    def find(self) -> Found:
        with self.door() as door:
            return find_data(_OwnDisk(self.folder / "disk", _LAYOUT), door)

    def door(self) -> Door:
        @contextmanager
        def boot(*, writable: bool) -> Iterator[Path | None]:
            del writable
            yield self.folder / "boot" if self.has_boot else None

        @contextmanager
        def socket(asking: Asking, fingerprint: str) -> Iterator[Callable[[Asking], None]]:
            assert fingerprint == "AB"
            self.asked.append(asking.view().text)
            assert isinstance(asking, SiteSession)
            self.change()
            self.meanwhile(asking)
            yield lambda _: None

        return Door(self.state, boot, socket, lambda: tuple(UnlockPolicy), self.told.append)

    def other_disks(
        self, system: Path, *, closely: bool, seed: uuid.UUID | None = None, bare: bool = False
    ) -> tuple[OtherDisk, ...]:
        assert not closely or bare == self.encrypted
        assert system == self.folder / "disk"
        stick = EMPTY
        if self.seed and self.whole and self.encrypted:
            unrecorded = closely and seed == self.seed
            stick = replace(stick, content="1 partition", unfinished=unrecorded, partitions={PART: Path("/dev/sda1")})
        elif self.seed and self.whole:
            volume = Volume(Path("/dev/sda1"), uuid.uuid5(self.seed, "file system"))
            stick = replace(stick, content="1 partition", volumes=(volume,))
        elif self.seed:
            stick = replace(stick, content="gpt", unfinished=seed == self.seed)
        disks = (stick, *self.plugged)
        return disks if closely else tuple(replace(disk, content="", unfinished=False) for disk in disks)

    def make_usb_disk(self, device: Path, seed: uuid.UUID, *, unfinished: bool, bare: bool = False) -> None:
        assert device == _STICK
        assert bare == self.encrypted
        assert unfinished == (self.seed is not None)
        assert read_seed(self.state) == seed
        self.made += 1
        self.change()  # the file system is made
        self.seed = seed
        self.change()  # a part of the table is written
        self.whole = True
        self.change()

    def change(self) -> None:
        """Do what a power cut can come before."""
        (self.folder / "changes").open("w").close()
        with (self.folder / "changes").open() as file:
            os.fsync(file.fileno())

    def leave_trouble(self, state: Path, text: str) -> None:
        assert state == self.state
        self.waits = text

    def mkfs(self, *argv: str) -> str:
        assert argv[-1] == str(self.folder / "data")
        block = bytearray(superblock(1, 0))
        block[32:48], block[299:312] = uuid.uuid4().bytes, b"darkpipe-data"
        Path(argv[-1]).write_bytes(bytes(65536) + block)
        self.change()
        return ""


class _OwnDisk(Disk):
    """The system's own disk, whose data partition is a file."""

    def partition(self, name: str) -> Path | None:
        return self.device.with_name(name)


_LAYOUT = Layout(table=Table.DOS, boot="boot", partitions={"data": 8}, formats={"data": FileSystem.BTRFS})


def world_maker(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., World]:
    """Give what makes worlds; the one that was made last counts."""
    numbers = itertools.count()

    def make(wish: str, *, encrypted: bool = False) -> World:
        place = folder / f"{next(numbers)}"
        world = World(place, wish, encrypted)
        for name in ("state", "boot"):
            Path.mkdir(place / name, parents=True)
        (place / "data").write_bytes(bytes(2**20))
        if wish:
            (place / "boot" / SEED_NAME).write_text(
                SEED.replace("system", wish).replace("none", "passphrase" if encrypted else "none")
            )

        for name, value in {
            "_STATE": world.state,
            "announce": world.told.append,
            "check_head": lambda _: None,
            "ensure_file_system": partial(ensure_file_system, tool=world.mkfs),
            "find_other_disks": world.other_disks,
            "leave_trouble": world.leave_trouble,
            "make_usb_disk": world.make_usb_disk,
            "run": lambda *_: "",
        }.items():
            monkeypatch.setattr(firstboot_disk, name, value)
        return world

    monkeypatch.setattr(time, "monotonic", lambda: 3600.0)
    monkeypatch.setattr(firstboot_door, "ensure_page_certificate", lambda _: "AB")
    monkeypatch.setattr(firstboot_door, "_LOOK_AGAIN", 0.01)
    return make


SEED = """\
version: 1
domains: [example.com]
disk: {unlock: none, data: system}
users: [{address: alice@example.com}]
"""
