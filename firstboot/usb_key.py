"""A key on a USB stick that unlocks the encrypted disk: a file in the stick's FAT, named after the disk that it opens.

What else is on the stick stays as it is. A stick is only looked at when the disk has a slot for such a key, so that a
device with a passphrase alone mounts nothing that a stranger has plugged in.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from firstboot.luks import Luks, Slot, Use
from firstboot.other_disks import candidates
from firstboot.partitions import run, system_disk
from model.problems import printable

_MOUNT_POINT = Path("/run/darkpipe-stick")
_FAT = "vfat"
_KEY_BYTES = 32
_LONGEST_FILE = 1024
_COLUMNS = "NAME,PATH,TYPE,TRAN,SIZE,FSTYPE,MODEL"
_LONGEST_MODEL = 40


class StickError(Exception):
    """A stick cannot hold a key; the text says what was found and what to do."""


def find_fats(rows: Sequence[Mapping[str, Any]], system: Path) -> tuple[Path, ...]:
    """Find the FAT file systems on USB disks in lsblk(8)'s tree, but for the disk that the system was started from."""
    disks = [row for row in candidates(rows, system) if row["tran"] == "usb"]
    places = [place for disk in disks for place in (disk, *disk.get("children", ()))]
    return tuple(Path(place["path"]) for place in places if place["fstype"] == _FAT)


def find_model(rows: Sequence[Mapping[str, Any]], stick: Path) -> str:
    """Give what the disk with a file system calls itself, of lsblk(8)'s tree."""
    for row in rows:
        if str(stick) in {row["path"], *(part["path"] for part in row.get("children", ()))}:
            return printable((row["model"] or "").strip())[:_LONGEST_MODEL]
    return ""


def _listed() -> Sequence[Mapping[str, Any]]:
    listed: Sequence[Mapping[str, Any]] = json.loads(run("lsblk", "--json", "--bytes", "--output", _COLUMNS))[
        "blockdevices"
    ]
    return listed


def _find() -> tuple[Path, ...]:
    return find_fats(_listed(), system_disk().device)


def _model(stick: Path) -> str:
    return find_model(_listed(), stick)


@contextmanager
def _mounted(stick: Path, *, writable: bool) -> Iterator[Path]:
    _MOUNT_POINT.mkdir(mode=0o700, exist_ok=True)
    options = f"{'rw' if writable else 'ro'},nosuid,nodev,noexec,umask=0077"
    run("mount", "--types", _FAT, "--options", options, str(stick), str(_MOUNT_POINT))
    try:
        yield _MOUNT_POINT
    finally:
        run("umount", str(_MOUNT_POINT))


@dataclass(frozen=True)
class Sticks:
    """The sticks that are plugged in.

    Args:
        find: gives the devices of their file systems.
        mount: mounts one for as long as it takes.
        model: gives what one calls itself.
    """

    find: Callable[[], tuple[Path, ...]] = _find
    mount: Callable[..., AbstractContextManager[Path]] = _mounted
    model: Callable[[Path], str] = _model

    def keys(self, disk: UUID) -> Iterator[bytes]:
        """Give the keys for a disk; a stick that cannot be read has none."""
        for stick in self.find():
            try:
                key = self.read(stick, disk)
            except (OSError, subprocess.CalledProcessError):  # pulled out a moment ago, or broken
                continue
            if key:
                yield key

    def only(self) -> Path:
        """Give the one stick that is plugged in.

        Raises:
            StickError: there is none that can be used, or more than one.
        """
        found = self.find()
        if len(found) == 1:
            return found[0]
        if found:
            names = ", ".join(map(str, found))
            raise StickError(f"there are several sticks with FAT: {names}. Unplug all but the one that you mean")
        raise StickError(
            "there is no USB stick with a FAT file system. Plug one in; one that has exFAT, NTFS or none has to be "
            "formatted as FAT32 first, on another computer"
        )

    def read(self, stick: Path, disk: UUID) -> bytes | None:
        """Read a disk's key from a stick; None when it has none, or what is there is none.

        Raises:
            OSError, subprocess.CalledProcessError: it cannot be read.
        """
        with self.mount(stick, writable=False) as folder:
            try:
                with (folder / _name(disk)).open("rb") as file:
                    return _parse(file.read(_LONGEST_FILE))
            except FileNotFoundError:
                return None

    def write(self, stick: Path, disk: UUID, key: bytes) -> None:
        """Write a disk's key to a stick, in place of an older one; on return it was read back from it.

        Raises:
            StickError: the stick does not keep it.
        """
        try:
            with self.mount(stick, writable=True) as folder:
                new = folder / f"{_name(disk)}.new"
                with new.open("wb") as file:
                    file.write(f"{key.hex()}\n".encode())
                    file.flush()
                    os.fsync(file.fileno())
                new.replace(folder / _name(disk))
            kept = self.read(stick, disk)
        except subprocess.CalledProcessError as error:
            raise StickError(f"{stick} cannot be written to: {error.output.strip()}. Try another stick") from None
        except OSError as error:
            raise StickError(f"{stick} cannot be written to: {error.strerror}. Try another stick") from None
        if kept != key:
            raise StickError(f"{stick} does not keep what is written to it. Try another stick")


def add_stick(
    luks: Luks,
    disk: UUID,
    known: bytes,
    sticks: Sticks,
    make_key: Callable[[], bytes] = lambda: secrets.token_bytes(_KEY_BYTES),
) -> Slot:
    """Make a key, put it on the one stick that is plugged in, and let it unlock the disk.

    The stick has it before the disk knows it. After a cut in between, doing it again makes another key: one that was
    revoked is never let in again. After a cut between the slot and its name, doing it again names it.

    Args:
        disk: the container's identifier.
        known: a key that opens it.

    Raises:
        StickError: there is no such stick, it does not keep the key, or it opens the disk already.
        LuksError: the key cannot be added.
    """
    stick = sticks.only()
    try:
        there = sticks.read(stick, disk)
    except (OSError, subprocess.CalledProcessError):
        there = None  # writing says what is wrong
    if there and luks.fits(there, Use.USB_KEY):
        raise StickError(f"the key on {stick} unlocks this disk already")
    if there and (cut := luks.name_unnamed(there, Use.USB_KEY)):
        return cut
    key = make_key()
    sticks.write(stick, disk, key)
    return luks.add(known, key, Use.USB_KEY, None)


def _name(disk: UUID) -> str:
    return f"darkpipe-{disk}.key"


def _parse(content: bytes) -> bytes | None:
    try:
        key = bytes.fromhex(content.decode("ascii"))
    except ValueError:
        return None
    return key if len(key) == _KEY_BYTES else None
