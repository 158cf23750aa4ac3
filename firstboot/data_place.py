"""Where data lies: on the system's own disk or on another one. Decided once, at the first start, and kept on `state`.

A device that finds another disk than the one with its data would show empty mailboxes and take mail where nobody looks
for it. Therefore it never falls back: with its disk missing, or with a choice that is not clear, it waits and says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from uuid import UUID

from pydantic import BaseModel, ConfigDict, ValidationError

from firstboot.other_disks import OtherDisk, Volume
from firstboot.partitions import DiskError
from firstboot.usb_disk import SMALLEST
from model.document import SEED_NAME
from model.site import DataDisk, UnlockPolicy
from stack.durable import write_atomically

_RECORD = "data-disk.json"
_SEED = "usb-disk-seed"


class Place(StrEnum):
    """Which disk data lies on."""

    SYSTEM = "system"
    OTHER = "other"


class Record(BaseModel):
    """What was decided.

    Args:
        uuid: of the btrfs, or of the LUKS2 container around it.
        making: the partition that is being encrypted for the first time, by its identifier in the table. Nothing of
            worth is on it until this is empty again.
        usb_key: whether a key on a USB stick is wanted, too, when it is made.
        tpm2: whether one that the TPM gives out is.
        relay: whether one that the relay helps to have is.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    place: Place
    uuid: UUID
    encrypted: bool = False
    making: str = ""
    usb_key: bool = False
    tpm2: bool = False
    relay: bool = False


def besides(policy: UnlockPolicy) -> dict[str, bool]:
    """Give the fields of a record that say what is to unlock a new disk, besides the passphrase."""
    return {
        "usb_key": policy is UnlockPolicy.USB_KEY,
        "tpm2": policy is UnlockPolicy.TPM2,
        "relay": policy is UnlockPolicy.RELAY,
    }


@dataclass(frozen=True)
class UseSystem:
    """Data lies on the system's own disk; `settled` is whether that is to be kept as the decision."""

    settled: bool


@dataclass(frozen=True)
class UseOther:
    """Data lies on another disk."""

    volume: Volume


@dataclass(frozen=True)
class MakeAgain:
    """A partition of another disk was being encrypted when the power went."""

    partition: Path


@dataclass(frozen=True)
class MakeUsb:
    """A USB disk is to be made the one for data."""

    disk: OtherDisk


@dataclass(frozen=True)
class Wait:
    """A person has to do something, which the text says."""

    text: str


Decision = UseSystem | UseOther | MakeAgain | MakeUsb | Wait


def decide(record: Record | None, wish: DataDisk | None, others: Sequence[OtherDisk], *, own: bool = False) -> Decision:
    """Decide where data lies.

    Args:
        record: what was decided before.
        wish: what the seed says; None when there is no seed.
        others: all disks but the system's own.
        own: whether a device's data is on the system's own disk, too, and `state` has forgotten which counts.
    """
    volumes = [(disk, volume) for disk in others for volume in disk.volumes]
    if record is not None:
        return _unfinished(record, others) if record.making else _recorded(record, volumes)
    if volumes:
        if own and wish is not DataDisk.USB:
            return Wait(
                "there is mail on the system's own disk, and another disk for data:\n"
                f"{_list_volumes(volumes)}\nUnplug it, if the mail on the system's own disk is what you mean. {_ELSE}"
            )
        if len(volumes) == 1:
            return UseOther(volumes[0][1])
        return Wait(f"there are several disks for its data:\n{_list_volumes(volumes)}\n{_ONE_OF_THEM}")
    if wish is DataDisk.USB:
        return _usb([disk for disk in others if disk.usb])
    # Without a seed nothing of worth comes to data, and the seed that is still to come may say something else.
    return UseSystem(settled=wish is not None)


def _recorded(record: Record, volumes: Sequence[tuple[OtherDisk, Volume]]) -> Decision:
    if record.place is Place.SYSTEM:
        return UseSystem(settled=True)
    ours = [(disk, volume) for disk, volume in volumes if volume.uuid == record.uuid]
    if len(ours) == 1:
        return UseOther(ours[0][1])
    if ours:
        return Wait(f"there are several copies of the disk with its data:\n{_list_volumes(ours)}\n{_ONE_OF_THEM}")
    foreign = f"\nThis is another device's or an older one:\n{_list_volumes(volumes)}" if volumes else ""
    kind = "encrypted" if record.encrypted else "btrfs"
    return Wait(f"the disk with its data is missing ({kind} {record.uuid}).{foreign}\nPlug it in. {_GONE}")


def _unfinished(record: Record, others: Sequence[OtherDisk]) -> Decision:
    if record.place is Place.SYSTEM:
        return UseSystem(settled=True)
    found = [path for disk in others for uuid, path in disk.partitions.items() if uuid == record.making]
    if len(found) == 1:
        return MakeAgain(found[0])
    if found:
        return Wait(f"the disk that is to be encrypted is there more than once: {', '.join(map(str, found))}.")
    return Wait(f"the disk that is to be encrypted is missing (partition {record.making}).\nPlug it in. {_GONE}")


def _usb(disks: Sequence[OtherDisk]) -> Decision:
    empty = [disk for disk in disks if (disk.unfinished or not disk.content) and disk.size >= SMALLEST]
    if len(empty) == 1:
        return MakeUsb(empty[0])
    found = "\n".join(f"  {disk}: {_state(disk)}" for disk in disks) or "  no USB disk"
    least = f"{SMALLEST / 1e9:.0f} GB or more"
    if empty:
        return Wait(f"several USB disks are empty. Found:\n{found}\nUnplug all but the one for data.")
    return Wait(
        f"its data is to lie on a USB disk, and none is empty. Found:\n{found}\n"
        f"Plug in one that has {least} and is empty; nothing else is touched. Windows empties one, with all that is on "
        f"it,\nby `clean` in diskpart; Linux, with its name in the place of /dev/…, by\n{_EMPTY_IT}\n"
        f"To have data on the system's own disk instead, switch off and write `data: system` into {SEED_NAME}."
    )


def _state(disk: OtherDisk) -> str:
    if disk.content and not disk.unfinished:
        return f"has {disk.content}"
    return "is empty" if disk.size >= SMALLEST else "is empty, and too small"


def _list_volumes(volumes: Sequence[tuple[OtherDisk, Volume]]) -> str:
    return "\n".join(f"  {volume.partition} on {disk}: {volume.kind} {volume.uuid}" for disk, volume in volumes)


# A file system with our label, which one command makes, would be adopted as it is, though the site wants it encrypted.
_EMPTY_IT = (
    "  D=/dev/…; sudo wipefs --all $D && sudo blkdiscard -z -l 1MiB $D &&\n"
    "  sudo blkdiscard -z -o $(($(lsblk -bdno SIZE $D) - 1048576)) $D"
)

_GONE = "If it is gone for good, write the image again: the device then begins anew."

_ELSE = "To use the other one,\nwrite the image again, which empties the system's own disk."

_ONE_OF_THEM = "Unplug all but the one that you mean."


def read_record(state: Path) -> Record | None:
    """Read what was decided.

    Args:
        state: folder where `state` is mounted.

    Raises:
        DiskError: it cannot be understood.
    """
    path = state / _RECORD
    try:
        return Record.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (ValidationError, UnicodeDecodeError):
        raise DiskError(
            f"{path} does not say which disk holds the data: the system's disk is damaged. In a computer with Linux, "
            f"delete {_RECORD} on its partition darkpipe-state: the device then looks for its data anew"
        ) from None


def keep_record(state: Path, record: Record) -> None:
    """Keep what was decided; on return it is durable."""
    write_atomically(state / _RECORD, f"{record.model_dump_json()}\n".encode(), 0o644)


def read_seed(state: Path) -> UUID | None:
    """Read the seed of the USB disk that this device has begun to make; None when it never has."""
    try:
        return UUID((state / _SEED).read_text(encoding="ascii").strip())
    except (FileNotFoundError, ValueError):
        return None


def keep_seed(state: Path, seed: UUID) -> None:
    """Keep a seed; on return it is durable."""
    write_atomically(state / _SEED, f"{seed}\n".encode(), 0o644)
