"""The device's disks: at the first start what is missing is made, at each start state and data are mounted.

`state` comes first, and with it settings, network and login; data may have to wait, for its disk or for a passphrase.

Every step may be cut off by a power failure. On a disk with GPT systemd-repart writes the partition table last, after
the new partitions' file systems; on one with MBR all partitions are in the image, and a file system counts once it is
marked as finished. Either way the next start finds a file system whole or makes it anew. Where data lies is decided
after `state` is there and before data is (`firstboot/data_place.py`): by the seed, and without one by whoever answers
the device's page (`firstboot/door.py`).
"""

from __future__ import annotations

import subprocess
import sys
import time
import traceback
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from firstboot.console import announce
from firstboot.data_place import (
    MakeAgain,
    MakeUsb,
    Place,
    Record,
    UseOther,
    UseSystem,
    Wait,
    besides,
    decide,
    keep_record,
    keep_seed,
    read_record,
    read_seed,
)
from firstboot.door import Door, leave_trouble
from firstboot.growing import grow_last, tell_kernel
from firstboot.luks import Luks, LuksError
from firstboot.luks_head import read_luks
from firstboot.making import ensure_file_system, is_finished
from firstboot.measuring import Measurements, close_tpm, measure_settings
from firstboot.opening import Places, check_empty, check_head, holds_mail, open_disk
from firstboot.other_disks import OtherDisk, Volume, find_other_disks, known_devices
from firstboot.partitions import Disk, DiskError, check_only_copy, label, run, system_disk
from firstboot.seed import SeedError
from firstboot.state_files import keep_machine_id, make_folders, mend_state
from firstboot.superblock import mend_superblock, read_btrfs
from firstboot.tpm import TpmError, open_tpm
from firstboot.tpm_unlock import wants_tpm
from firstboot.unlock_socket import forget_failure, forget_words
from firstboot.usb_disk import make_usb_disk
from model.document import SEED_NAME
from model.layout import FileSystem, Table
from model.site import DataDisk, UnlockPolicy
from model.site import Disk as Wish
from stack.certificate import CertificateError

_DEFINITIONS = Path("/usr/share/darkpipe/repart.d")
_STATE = Path("/state")
_DATA = Path("/data")

_DISKS_ARE_THERE = 20.0
"""Seconds after the kernel's start. USB disks come when they like; before that neither a missing one proves anything,
nor that the one which is there has no copy."""

_LOOK_AGAIN = 1.0
"""Seconds between two looks at which disks are there."""

_SYSTEM_PARTITION = "system"
"""Stands for the system disk's own data partition, which needs no identifier to be found."""


@dataclass(frozen=True)
class Found:
    """The partition that data lies on, and what was decided about it; None when nothing is settled yet."""

    partition: Path
    record: Record | None


def prepare_state(disk: Disk) -> None:
    """Make the partitions that are missing, mount state, and keep the machine id.

    Raises:
        DiskError: a disk is too small or broken, or there is a copy of the system on another one.
    """
    check_only_copy(disk)
    first = _is_new(disk)
    if first:
        announce(f"DarkPipe: first start. Making partitions and file systems on {disk.device}: minutes, if it is slow.")
    make_partitions(disk)
    if first:
        announce("DarkPipe: partitions and file systems are made; checking and mounting them.")
    _mount(disk.existing("state"), _STATE, FileSystem.EXT4, "noatime")
    make_folders(_STATE)
    keep_machine_id(_STATE / "machine-id")
    if tpm := open_tpm():
        try:
            measure_settings(Measurements(tpm))
        except (TpmError, OSError) as error:
            # Then nothing is unsealed, or sealed, at this start.
            print(f"the settings cannot be measured: {error}", file=sys.stderr)


def prepare_data(disk: Disk) -> None:
    """Mount data; make its file system, or its encryption, where they are missing.

    It returns when data is there, however long it takes until somebody has given the device a site, plugged in the disk
    that data lies on, or unlocked it.

    Raises:
        DiskError: a disk is broken.
        SeedError: at the first start, the boot partition cannot be used; nothing was decided.
        LuksError, CertificateError: cryptsetup(8) or openssl(1) fail.
    """
    forget_words()
    with Door(_STATE) as door:
        found = find_data(disk, door)
        device, encrypted = found.partition, False
        if found.record and found.record.encrypted:
            encrypted = True
            device = open_disk(found.partition, found.record, Places(_STATE, _DATA, _mount_data), door)
        # Whatever lies on data, and be it a thief's: it comes too late for the TPM.
        close_tpm(open_tpm(), sealed=encrypted and wants_tpm(Luks(found.partition)))
        _mount_data(device)
        run("btrfs", "filesystem", "resize", "max", str(_DATA))
        forget_failure()
    announce("DarkPipe: the disk for the mail is there.")


def _mount_data(device: Path) -> None:
    _mount(device, _DATA, FileSystem.BTRFS, "noatime,compress=zstd:1")


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


def find_data(disk: Disk, door: Door) -> Found:
    """Find the partition that data lies on, wherever it is; wait for it, make it, and keep the decision.

    Args:
        door: where the seed is found, and people who answer in its place.

    Raises:
        DiskError: a disk is broken.
        SeedError: the boot partition cannot be used; nothing was decided.
    """
    record = read_record(_STATE)
    if record is not None and record.place is Place.SYSTEM:
        return _system_data(disk, record, UnlockPolicy.NONE, encrypted=record.encrypted, settled=True)
    wish = None if record else door.wish()
    told = ""
    while True:
        seen = known_devices()
        policy = wish.unlock if wish else UnlockPolicy.NONE
        encrypted = policy is not UnlockPolicy.NONE
        closely = record is None and wish is not None and wish.data is DataDisk.USB
        others = find_other_disks(disk.device, closely=closely, seed=read_seed(_STATE), bare=encrypted)
        own = record is None and _has_mail_here(disk)
        decision = decide(record, wish.data if wish else None, others, own=own)
        if time.monotonic() < _DISKS_ARE_THERE:
            time.sleep(_LOOK_AGAIN)
        elif isinstance(decision, Wait):
            told = _tell_once(decision.text, told, door)
            _wait_for_change(seen)
        elif isinstance(decision, MakeUsb):
            _make_usb(decision.disk, encrypted=encrypted)
            if encrypted:
                record = _begin_on_usb(disk, decision.disk, policy)
        elif isinstance(decision, UseOther):
            return Found(decision.volume.partition, record or _adopt(decision.volume, encrypted=encrypted))
        elif isinstance(decision, MakeAgain) and record is not None:
            return Found(decision.partition, _settle(record, decision.partition))
        elif isinstance(decision, UseSystem) and not decision.settled and door.can_ask and not own:
            wish = _ask(door, seen)
        else:
            settled = isinstance(decision, UseSystem) and (decision.settled or own)
            return _system_data(disk, record, policy, encrypted=encrypted, settled=settled)


def _has_mail_here(disk: Disk) -> bool:
    """Tell whether the system's own disk has a device's data, encrypted or not: `state` has forgotten it."""
    partition = disk.partition("data")
    return _is_finished_here(disk) or (partition is not None and holds_mail(partition))


def _is_finished_here(disk: Disk) -> bool:
    partition = disk.partition("data")
    container = read_luks(partition) if partition else None
    return container is not None and container.label == label("data")


def _adopt(volume: Volume, *, encrypted: bool) -> Record:
    if encrypted and not volume.encrypted:
        announce(
            f"DarkPipe: {volume.partition} holds a device's mail and is used as it is: IT IS NOT ENCRYPTED, though "
            f"{SEED_NAME} asks for that."
        )
    if volume.encrypted:
        check_head(volume.partition)
    record = Record(place=Place.OTHER, uuid=volume.uuid, encrypted=volume.encrypted)
    keep_record(_STATE, record)
    return record


def _begin_on_usb(system: Disk, made: OtherDisk, policy: UnlockPolicy) -> Record:
    """Record that the one partition of a USB disk is going to be encrypted."""
    others = find_other_disks(system.device, closely=False)
    partitions = [uuid for disk in others if disk.device == made.device for uuid in disk.partitions]
    if len(partitions) != 1:
        raise DiskError(f"{made} does not keep the table that was written to it. Is it broken?")
    record = Record(place=Place.OTHER, uuid=uuid.uuid4(), encrypted=True, making=partitions[0], **besides(policy))
    keep_record(_STATE, record)
    return record


def _settle(record: Record, partition: Path) -> Record:
    """Take note that a container is finished, if a power cut came before that was recorded."""
    container = read_luks(partition)
    if not record.making or container is None or (container.uuid, container.label) != (record.uuid, label("data")):
        return record
    record = record.model_copy(update={"making": ""})
    keep_record(_STATE, record)
    return record


def _system_data(disk: Disk, record: Record | None, policy: UnlockPolicy, *, encrypted: bool, settled: bool) -> Found:
    if record is None and not encrypted and _is_finished_here(disk):
        announce(f"DarkPipe: {disk.device} holds a device's mail and is used as it is: it is encrypted.")
        encrypted = True
    partition = disk.existing("data") if record or encrypted else make_file_system(disk, "data")
    if encrypted:
        return Found(partition, _encrypted_system_data(partition, record, policy))
    found = read_btrfs(partition)
    if found is None or (record and found.uuid != record.uuid):
        raise DiskError(f"{partition}, which held its data, is damaged: restore a backup, or write the image again")
    if record is None and settled:
        record = Record(place=Place.SYSTEM, uuid=found.uuid)
        keep_record(_STATE, record)
    return Found(partition, record)


def _encrypted_system_data(partition: Path, record: Record | None, policy: UnlockPolicy) -> Record:
    container = read_luks(partition)
    if record is None:
        if container and container.label == label("data"):
            check_head(partition)
            record = Record(place=Place.SYSTEM, uuid=container.uuid, encrypted=True)
        else:
            # What may be there is the empty file system that this disk has got a moment ago.
            check_empty(partition)
            more = besides(policy)
            record = Record(place=Place.SYSTEM, uuid=uuid.uuid4(), encrypted=True, making=_SYSTEM_PARTITION, **more)
        keep_record(_STATE, record)
    elif record.making:
        record = _settle(record, partition)
    elif container is None or container.uuid != record.uuid:
        raise DiskError(
            f"{partition}, which held its data, has lost its head or is damaged: put a copy of the head back "
            "(cryptsetup luksHeaderRestore), restore a backup, or write the image again"
        )
    return record


def _make_usb(disk: OtherDisk, *, encrypted: bool) -> None:
    announce(f"DarkPipe: first start. Making {disk} the disk for data.")
    seed = read_seed(_STATE) if disk.unfinished else None
    if seed is None:
        # Another one for each disk: two with the same identifiers could not be told from each other.
        seed = uuid.uuid4()
        keep_seed(_STATE, seed)
    try:
        make_usb_disk(disk.device, seed, unfinished=disk.unfinished, bare=encrypted)
    except subprocess.CalledProcessError as error:
        raise DiskError(f"{disk} cannot be made the disk for data:\n{error.stdout}\nIs it broken?") from error
    run("udevadm", "settle")


def _tell_once(text: str, told: str, door: Door) -> str:
    if text != told:
        leave_trouble(_STATE, f"the device waits: {text}")
        announce(f"DarkPipe waits: {text}")
        print(text, flush=True)
        door.tell(text)
    return text


def _ask(door: Door, seen: frozenset[tuple[str, str]]) -> Wish | None:
    """Ask for a site; None when another disk was plugged in, which may make that needless."""
    wish = door.ask(lambda: known_devices() != seen)
    if wish is None:
        run("udevadm", "settle")
    return wish


def _wait_for_change(seen: frozenset[tuple[str, str]]) -> None:
    while known_devices() == seen:
        time.sleep(_LOOK_AGAIN)
    run("udevadm", "settle")


def _mount(partition: Path, target: Path, kind: FileSystem, options: str) -> None:
    if target.is_mount():
        return
    if kind is FileSystem.EXT4:
        mend_state(partition)
    mount = ("mount", "--types", kind, "--options", f"nosuid,nodev,noexec,{options}", str(partition), str(target))
    try:
        run(*mount)
    except subprocess.CalledProcessError:
        if kind is not FileSystem.BTRFS or not mend_superblock(partition):
            raise
        print(f"the superblock of {partition} was torn by a power cut, and is mended")
        run(*mount)


def main(arguments: Sequence[str]) -> int:
    """Run by darkpipe-state.service and darkpipe-disk.service; exit status 1 after a text on the console.

    Args:
        arguments: which of the two: `state` or `data`.
    """
    try:
        {"state": prepare_state, "data": prepare_data}[arguments[0]](system_disk())
    except DiskError as error:
        return _failed(arguments[0], f"DarkPipe cannot use its disk: {error}", str(error))
    except (OSError, SeedError, LuksError, CertificateError) as error:
        return _failed(arguments[0], f"DarkPipe cannot use its disk: {error}", str(error))
    except subprocess.CalledProcessError as error:
        text = f"{' '.join(error.cmd)} failed:\n{error.stdout}"
        hint = "Start again; if it stays like this, the disk is broken."
        return _failed(arguments[0], f"DarkPipe cannot use its disk: {text}\n{hint}", text)
    except Exception as error:
        # Whatever it is, somebody waits in front of the device, who sees no journal. Its text might quote the seed.
        where = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(where.filename).name}, line {where.lineno}"
        fault = (
            f"that is DarkPipe's own fault: {type(error).__name__} in {place}. Start again; if it stays like this, "
            "please report it."
        )
        _failed(arguments[0], f"DarkPipe cannot use its disk, and {fault}", fault)
        raise
    return 0


def _failed(which: str, told: str, logged: str) -> int:
    """Tell whoever sits at the device; the journal gets a text without what a seed may hold."""
    announce(told)
    print(logged, file=sys.stderr)
    if which == "data":  # without state there is neither page nor SSH
        leave_trouble(_STATE, logged)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
