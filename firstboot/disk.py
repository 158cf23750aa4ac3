"""The device's disks: at the first start what is missing is made, at each start state and data are mounted.

Every step may be cut off by a power failure. On a disk with GPT systemd-repart writes the partition table last, after
the new partitions' file systems; on one with MBR all partitions are in the image, and a file system counts once it is
marked as finished. Either way the next start finds a file system whole or makes it anew. Where data lies is decided
after `state` is there and before data is (`firstboot/data_place.py`).
"""

from __future__ import annotations

import subprocess
import sys
import time
import traceback
import uuid
from pathlib import Path

from firstboot.console import announce
from firstboot.data_place import (
    MakeUsb,
    Place,
    Record,
    UseOther,
    Wait,
    decide,
    keep_record,
    keep_seed,
    read_record,
    read_seed,
)
from firstboot.growing import grow_last, tell_kernel
from firstboot.making import ensure_file_system, is_finished
from firstboot.other_disks import OtherDisk, find_other_disks
from firstboot.partitions import Disk, DiskError, check_only_copy, label, run, system_disk
from firstboot.seed import SeedError, boot_partition
from firstboot.superblock import mend_superblock, read_btrfs
from firstboot.usb_disk import make_usb_disk
from model.document import SEED_NAME, SiteError, read_site
from model.layout import FileSystem, Table
from model.report import annotate
from model.site import DataDisk
from stack.durable import write_atomically

_DEFINITIONS = Path("/usr/share/darkpipe/repart.d")
_MACHINE_ID = Path("/etc/machine-id")
_BLOCK_DEVICES = Path("/sys/class/block")
_STATE = Path("/state")
_DATA = Path("/data")

_DISKS_ARE_THERE = 20.0
"""Seconds after the kernel's start. USB disks come when they like; before that a missing one proves nothing."""

_LOOK_AGAIN = 1.0
"""Seconds between two looks at which disks are there."""


def prepare(disk: Disk) -> None:
    """Make what is missing, mount state and data, and keep the machine id.

    It returns when data is there, however long it takes until somebody has plugged in the disk that it lies on.

    Raises:
        DiskError: a disk is too small or broken, or there is a copy of the system on another one.
        SiteError, SeedError: at the first start, the seed does not say where data is to lie; nothing was decided.
    """
    check_only_copy(disk)
    first = _is_new(disk)
    if first:
        announce(f"DarkPipe: first start. Making partitions and file systems on {disk.device}: minutes, if it is slow.")
    make_partitions(disk)
    if first:
        announce("DarkPipe: partitions and file systems are made; checking and mounting them.")
    _mount(disk.existing("state"), _STATE, FileSystem.EXT4, "noatime")
    _keep_machine_id(_STATE / "machine-id")
    _mount(find_data(disk), _DATA, FileSystem.BTRFS, "noatime,compress=zstd:1")
    run("btrfs", "filesystem", "resize", "max", str(_DATA))
    if first:
        announce("DarkPipe: the disk is ready.")


def make_partitions(disk: Disk) -> None:
    """Make partitions and the file system of `state`; let the last partition fill the disk; doing it again is harmless.

    Raises:
        DiskError: the disk is too small or broken.
    """
    if disk.layout.table is Table.GPT:
        _repart(disk)
        run("udevadm", "settle")
        return
    if grown := grow_last(disk.device, disk.layout):
        # udev looks at a disk that was written to, and must not do so at the same time.
        run("udevadm", "settle")
        tell_kernel(disk.device, grown.number)
    make_file_system(disk, "state")


def make_file_system(disk: Disk, name: str) -> Path:
    """Make a file system that the image has left to the device, unless it was finished before; give its partition."""
    partition = disk.existing(name)
    if disk.layout.table is Table.DOS and ensure_file_system(partition, disk.layout.formats[name], label(name)):
        run("udevadm", "settle")
    return partition


def _is_new(disk: Disk) -> bool:
    if disk.layout.table is Table.GPT:
        return disk.partition("data") is None
    return not is_finished(disk.existing("state"), label("state"))


def _repart(disk: Disk) -> None:
    """Make and grow partitions as repart.d says; running it again changes nothing (systemd-repart(8))."""
    try:
        print(run("systemd-repart", "--dry-run=no", f"--definitions={_DEFINITIONS}", str(disk.device)))
    except subprocess.CalledProcessError as error:
        raise DiskError(
            f"{disk.device} cannot be partitioned:\n{error.stdout}\n"
            "Is it smaller than 16 GB, which is the least that DarkPipe needs, or is it broken?"
        ) from error


def find_data(disk: Disk) -> Path:
    """Give the partition that data lies on, wherever it is; wait for it, make it, and keep the decision.

    Raises:
        DiskError: a disk is broken.
        SiteError, SeedError: the seed does not say where data is to lie; nothing was decided.
    """
    record = read_record(_STATE)
    if record is not None and record.place is Place.SYSTEM:
        return _system_data(disk, record, settled=True)
    wish = None if record else _wish()
    told = ""
    while True:
        seen = _devices()
        others = find_other_disks(disk.device, closely=wish is DataDisk.USB, seed=read_seed(_STATE))
        decision = decide(record, wish, others)
        if time.monotonic() < _DISKS_ARE_THERE and (record is None or isinstance(decision, Wait)):
            time.sleep(_LOOK_AGAIN)
        elif isinstance(decision, Wait):
            if decision.text != told:
                announce(f"DarkPipe waits: {decision.text}")
                print(decision.text, flush=True)
                told = decision.text
            _wait_for_change(seen)
        elif isinstance(decision, MakeUsb):
            _make_usb(decision.disk)
        elif isinstance(decision, UseOther):
            if record is None:
                keep_record(_STATE, Record(place=Place.OTHER, uuid=decision.volume.uuid))
            return decision.volume.partition
        else:
            return _system_data(disk, record, settled=decision.settled)


def _system_data(disk: Disk, record: Record | None, *, settled: bool) -> Path:
    partition = disk.existing("data") if record else make_file_system(disk, "data")
    found = read_btrfs(partition)
    if found is None or (record and found.uuid != record.uuid):
        raise DiskError(f"{partition}, which held its data, is damaged: restore a backup, or write the image again")
    if record is None and settled:
        keep_record(_STATE, Record(place=Place.SYSTEM, uuid=found.uuid))
    return partition


def _make_usb(disk: OtherDisk) -> None:
    announce(f"DarkPipe: first start. Making {disk} the disk for data.")
    seed = read_seed(_STATE) if disk.unfinished else None
    if seed is None:
        # Another one for each disk: two with the same identifiers could not be told from each other.
        seed = uuid.uuid4()
        keep_seed(_STATE, seed)
    try:
        make_usb_disk(disk.device, seed, unfinished=disk.unfinished)
    except subprocess.CalledProcessError as error:
        raise DiskError(f"{disk} cannot be made the disk for data:\n{error.stdout}\nIs it broken?") from error
    run("udevadm", "settle")


def _wish() -> DataDisk | None:
    """Read from the seed where data is to lie; None when there is no seed."""
    with boot_partition(writable=False) as boot:
        seed = boot / SEED_NAME if boot else None
        return read_site(seed).disk.data if seed and seed.is_file() else None


def _devices() -> frozenset[tuple[str, str]]:
    """Name the disks and partitions that the kernel knows; a medium that was changed has another number."""
    return frozenset((entry.name, _diskseq(entry)) for entry in _BLOCK_DEVICES.iterdir())


def _diskseq(entry: Path) -> str:
    try:
        return (entry / "diskseq").read_text()
    except OSError:  # a partition, or a disk that has gone
        return ""


def _wait_for_change(seen: frozenset[tuple[str, str]]) -> None:
    while _devices() == seen:
        time.sleep(_LOOK_AGAIN)
    run("udevadm", "settle")


def _mount(partition: Path, target: Path, kind: FileSystem, options: str) -> None:
    if target.is_mount():
        return
    if kind is FileSystem.EXT4:
        # Status 1 means that errors were mended (e2fsck(8)).
        run("fsck.ext4", "-p", str(partition), allowed=(0, 1))
    mount = ("mount", "--types", kind, "--options", f"nosuid,nodev,noexec,{options}", str(partition), str(target))
    try:
        run(*mount)
    except subprocess.CalledProcessError:
        if kind is not FileSystem.BTRFS or not mend_superblock(partition):
            raise
        print(f"the superblock of {partition} was torn by a power cut, and is mended")
        run(*mount)


def _keep_machine_id(kept: Path) -> None:
    """Store the id that this start was given, unless there is one already; the initramfs reads it at the next start."""
    if not kept.exists():
        write_atomically(kept, _MACHINE_ID.read_bytes(), 0o444)


def main() -> int:
    """Run by darkpipe-disk.service; exit status 1 after a text on the console."""
    try:
        prepare(system_disk())
    except DiskError as error:
        return _failed(f"DarkPipe cannot use its disk: {error}", str(error))
    except SiteError as error:
        return _failed(annotate(error), str(error))
    except (OSError, SeedError) as error:
        return _failed(f"DarkPipe cannot use its disk: {error}", str(error))
    except subprocess.CalledProcessError as error:
        text = f"{' '.join(error.cmd)} failed:\n{error.stdout}"
        hint = "Start again; if it stays like this, the disk is broken."
        return _failed(f"DarkPipe cannot use its disk: {text}\n{hint}", text)
    except Exception as error:
        # Whatever it is, somebody waits in front of the device, who sees no journal. Its text might quote the seed.
        where = traceback.extract_tb(error.__traceback__)[-1]
        announce(
            f"DarkPipe cannot use its disk, and that is DarkPipe's own fault: {type(error).__name__} in "
            f"{Path(where.filename).name}, line {where.lineno}. Start again; if it stays like this, please report it."
        )
        raise
    return 0


def _failed(told: str, logged: str) -> int:
    """Tell whoever sits at the device; the journal gets a text without what a seed may hold."""
    announce(told)
    print(logged, file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
