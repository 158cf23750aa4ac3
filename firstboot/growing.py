"""The last partition of a table of MBR grows to the end of the disk, and the extended one around it first.

Each of the two changes is one sector: the table is whole and holds the same partitions after either of them, and so at
any power cut. systemd-repart(8), which does this with GPT, knows no MBR.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from firstboot.partitions import DiskError, run
from model.layout import Layout
from stack.durable import sync_file

_SECTOR = 512
_ALIGNMENT = 2**20 // _SECTOR
_MOST_SECTORS = 2**32 - 1
"""What 32 bits of the table can say."""

_EXTENDED = {"5", "f", "85"}


@dataclass(frozen=True)
class Entry:
    """A partition as the table describes it; start and size are in sectors of 512 bytes."""

    number: int
    start: int
    size: int
    extended: bool = False

    @property
    def end(self) -> int:
        """The first sector behind it."""
        return self.start + self.size


@dataclass(frozen=True)
class Change:
    """A partition gets another size, in sectors."""

    number: int
    size: int


def changes(entries: Sequence[Entry], last: int, sectors: int) -> tuple[Change, ...]:
    """Tell how a table is made to fill a disk.

    A partition that reaches as far already, or behind which somebody has made another one, stays as it is.

    Args:
        last: number of the partition that grows.
        sectors: size of the disk.

    Returns:
        What to do, in this order.

    Raises:
        DiskError: the table is none of ours, or larger than the disk.
    """
    growing = next((entry for entry in entries if entry.number == last), None)
    around = next((entry for entry in entries if entry.extended), None)
    if growing is None or around is None:
        raise DiskError(f"the partition table has no partition {last} in an extended one: write the image again")
    if max(entry.end for entry in entries) > sectors:
        raise DiskError(
            f"the disk ends at sector {sectors}, before its last partition: it must have 16 GB or more, "
            "and what is sold as more than it has is a counterfeit"
        )
    if any(entry.start >= growing.end for entry in entries):
        return ()  # a partition that somebody has made behind ours stays where it is
    end = min(sectors, _MOST_SECTORS) // _ALIGNMENT * _ALIGNMENT
    return tuple(Change(entry.number, end - entry.start) for entry in (around, growing) if end > entry.end)


def read_table(device: Path) -> tuple[Entry, ...]:
    """Read a disk's or an image's partition table.

    Raises:
        DiskError: it has none of MBR.
        subprocess.CalledProcessError: sfdisk(8) cannot read it.
    """
    table = json.loads(run("sfdisk", "--json", str(device)))["partitiontable"]
    if table["label"] != "dos" or table["sectorsize"] != _SECTOR:
        raise DiskError(f"{device} has a partition table of the kind {table['label']}, not dos: write the image again")
    return tuple(
        Entry(
            int(row["node"].removeprefix(str(device)).lstrip("p")), row["start"], row["size"], row["type"] in _EXTENDED
        )
        for row in table["partitions"]
    )


def grow_last(device: Path, layout: Layout) -> Change | None:
    """Make the last partition of the table fill the disk, which may be in use; calling it again changes nothing.

    The kernel is not told.

    Returns:
        What became of the last partition; None when it was as large as it can be.

    Raises:
        DiskError: the table is none of ours, or larger than the disk.
        subprocess.CalledProcessError: the disk cannot be written.
    """
    last = max(layout.partitions.values())
    wanted = changes(read_table(device), last, _size(device) // _SECTOR)
    for change in wanted:
        # Whoever sees the disk change while sfdisk writes it waits for the lock (udev does).
        quiet = ("--quiet", "--lock=yes", "--no-reread", "--no-tell-kernel", "--wipe=never", "--wipe-partitions=never")
        run("sfdisk", *quiet, "-N", str(change.number), str(device), stdin=f",{change.size}\n")
        sync_file(device)
    return wanted[-1] if wanted else None


def tell_kernel(device: Path, number: int) -> None:
    """Have the kernel take a partition's new size from the table, while others of the disk are in use (partx(8))."""
    run("partx", "--update", "--nr", str(number), str(device))


def _size(device: Path) -> int:
    with device.open("rb") as file:
        return file.seek(0, os.SEEK_END)
