"""The disks besides the one that the system was started from: whose data is on them, and what else. Reads only."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

from firstboot.luks_head import read_luks
from firstboot.partitions import label, run
from firstboot.superblock import read_btrfs
from firstboot.usb_disk import is_unfinished, read_edges
from model.problems import printable

# Without NAME there would be no tree.
_COLUMNS = "NAME,PATH,TYPE,TRAN,SIZE,MODEL,RO,LOG-SEC,FSTYPE,LABEL,PARTUUID"

_BLOCK_DEVICES = Path("/sys/class/block")


@dataclass(frozen=True)
class Volume:
    """A btrfs with our label, or a LUKS2 container with it, on another disk."""

    partition: Path
    uuid: UUID
    encrypted: bool = False

    @property
    def kind(self) -> str:
        """Say what it is."""
        return "encrypted" if self.encrypted else "btrfs"


@dataclass(frozen=True)
class OtherDisk:
    """A disk that the system was not started from.

    Args:
        size: in bytes.
        usb: whether it is plugged in by USB.
        content: what was found on it, in words; empty when there is nothing, or when nobody has looked closely.
        volumes: what is labelled as our data.
        unfinished: whether a power cut has left on it a part of what this very device was making.
        partitions: the devices of its partitions, by the identifiers in its table.
    """

    device: Path
    model: str
    size: int
    usb: bool
    content: str = ""
    volumes: tuple[Volume, ...] = ()
    unfinished: bool = False
    partitions: Mapping[str, Path] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.device} ({', '.join(filter(None, [self.model, f'{self.size / 1e9:.1f} GB']))})"


def find_other_disks(
    system: Path, *, closely: bool, seed: UUID | None = None, bare: bool = False
) -> tuple[OtherDisk, ...]:
    """Look at all disks but the one that the system was started from.

    Args:
        system: that disk, such as `/dev/mmcblk0`.
        closely: whether to find out which USB disks are empty, too.
        seed: of the USB disk that this device has begun to make, if any.
        bare: whether that one was to have an empty partition, to be encrypted.
    """
    listed = json.loads(run("lsblk", "--json", "--bytes", "--output", _COLUMNS))["blockdevices"]
    return tuple(_look(row, closely, seed, bare) for row in candidates(listed, system))


def known_devices() -> frozenset[tuple[str, str]]:
    """Name the disks and partitions that the kernel knows; a medium that was changed has another number."""
    return frozenset((entry.name, _diskseq(entry)) for entry in _BLOCK_DEVICES.iterdir())


def _diskseq(entry: Path) -> str:
    try:
        return (entry / "diskseq").read_text()
    except OSError:  # a partition, or a disk that has gone
        return ""


def candidates(rows: Sequence[Mapping[str, Any]], system: Path) -> list[Mapping[str, Any]]:
    """Take the disks with a medium in them from lsblk(8)'s tree, but for the system's own."""
    return [row for row in rows if row["type"] == "disk" and row["size"] and Path(row["path"]) != system]


def describe(row: Mapping[str, Any], signatures: Sequence[Mapping[str, Any]], *, zeros: bool) -> str:
    """Say what is on a disk, for its owner.

    Args:
        row: of lsblk(8), with the partitions as its children.
        signatures: what wipefs(8) has found on the disk as a whole.
        zeros: whether its first and its last MiB are nothing but zeros.

    Returns:
        Nothing when the disk is empty.
    """
    if parts := _partitions(row):
        count = "1 partition" if len(parts) == 1 else f"{len(parts)} partitions"
        inside = ", ".join(_named(part["fstype"], part["label"]) for part in parts if part["fstype"])
        return f"{count} ({inside})" if inside else count
    if signatures:
        return ", ".join(dict.fromkeys(_named(found["type"], found["label"]) for found in signatures))
    if not zeros:
        return "data of an unknown kind"
    return "nothing, but it is write-protected" if row["ro"] else ""


def _look(row: Mapping[str, Any], closely: bool, seed: UUID | None, bare: bool) -> OtherDisk:
    device = Path(row["path"])
    model = printable((row["model"] or "").strip())
    content, unfinished = "", False
    if closely and row["tran"] == "usb":
        try:
            content, unfinished = _look_closely(device, row, seed, bare)
        except (OSError, subprocess.CalledProcessError):  # pulled out a moment ago, or broken
            content = "nothing that can be read"
    places = [device, *(Path(part["path"]) for part in _partitions(row))]
    found = tuple(volume for place in places if (volume := _volume(place)))
    # A container gets its label when it is finished: of a `state` that has forgotten that, it must not be made again.
    volumes = tuple(volume for volume in found if volume.encrypted or not unfinished)
    unfinished = unfinished and not volumes
    partitions = {part["partuuid"]: Path(part["path"]) for part in _partitions(row) if part["partuuid"]}
    return OtherDisk(device, model, row["size"], row["tran"] == "usb", content, volumes, unfinished, partitions)


def _look_closely(device: Path, row: Mapping[str, Any], seed: UUID | None, bare: bool) -> tuple[str, bool]:
    edges = read_edges(device)
    signatures = json.loads(run("wipefs", "--json", "--no-act", str(device)) or "{}").get("signatures", ())
    content = describe(row, signatures, zeros=not any(map(any, edges)))
    return content, bool(content and seed and is_unfinished(device, edges, row["log-sec"], seed, bare=bare))


def _volume(partition: Path) -> Volume | None:
    # The container first: making it leaves copies of an older btrfs's superblock where they were.
    if (container := read_luks(partition)) is not None:
        return Volume(partition, container.uuid, encrypted=True) if container.label == label("data") else None
    found = read_btrfs(partition)
    return Volume(partition, found.uuid) if found and found.label == label("data") else None


def _partitions(row: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [part for part in row.get("children", ()) if part["type"] == "part"]


def _named(kind: str, name: str | None) -> str:
    return f"{kind} “{printable(name)}”" if name else kind
