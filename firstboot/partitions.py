"""The disk that the system was started from, and its partitions."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.layout import Layout, Table

_LAYOUT = Path("/usr/share/darkpipe/disk.json")


class DiskError(Exception):
    """The disk cannot be used; the text says what was found and what to do."""


@dataclass(frozen=True)
class Disk:
    """The disk that the system was started from, for instance `/dev/vda`."""

    device: Path
    layout: Layout

    def partition(self, name: str) -> Path | None:
        """Find a partition of this disk; other disks may carry the same labels and numbers.

        Args:
            name: of the layout, such as `data`.

        Returns:
            Its device, or None.
        """
        # sysfs has no labels of partitions that were added while the kernel ran; lsblk(8) asks udev.
        listed = run("lsblk", "--json", "--list", "--output", "PATH,TYPE,PARTN,PARTLABEL", str(self.device))
        return find_partition(json.loads(listed)["blockdevices"], self.layout, name)

    def existing(self, name: str) -> Path:
        """Find a partition that must be there.

        Raises:
            DiskError: it is not.
        """
        partition = self.partition(name)
        if partition is None:
            raise DiskError(f"{self.device} has no partition for {name}: write the image again")
        return partition


def find_partition(rows: Iterable[Mapping[str, Any]], layout: Layout, name: str) -> Path | None:
    """Find a partition among the rows that lsblk(8) gives for one disk; a table of MBR has numbers, GPT has labels."""
    for row in rows:
        if row["type"] != "part":
            continue
        if layout.table is Table.GPT:
            found = row["partlabel"] == label(name)
        else:
            found = row["partn"] is not None and int(row["partn"]) == layout.partitions[name]
        if found:
            return Path(row["path"])
    return None


def label(name: str) -> str:
    """Give the label of a partition, and of the file system in it."""
    return f"darkpipe-{name}"


def system_disk(
    root: Path = Path("/dev/mapper/root"), block_devices: Path = Path("/sys/class/block"), layout_file: Path = _LAYOUT
) -> Disk:
    """Find the disk that the root file system is read from.

    Links by identifiers would not do: an image that was written to two disks has the same on both.

    Args:
        root: the mapping that the initramfs has opened on the root partition.
        block_devices: folder of sysfs with all block devices.

    Raises:
        DiskError: there is no such mapping.
    """
    partitions = sorted((block_devices / root.resolve().name / "slaves").glob("*"))
    if len(partitions) != 1:
        raise DiskError(f"{root} lies on no partition: this is no DarkPipe disk image")
    layout = Layout.model_validate_json(layout_file.read_text(encoding="utf-8"))
    return Disk(Path("/dev") / partitions[0].resolve().parent.name, layout)


def check_only_copy(disk: Disk) -> None:
    """Refuse to go on while the image that the system was started from is on another disk as well.

    Which of the two the next start takes would be chance, and with it whose mailboxes are seen.

    Raises:
        DiskError: it is; the text names the disks.
    """
    rows = json.loads(run("lsblk", "--json", "--list", "--output", "PATH,PARTUUID,PKNAME"))["blockdevices"]
    if others := find_copies(rows, disk.device):
        raise DiskError(
            f"this very system is on {' and '.join(map(str, others))} as well as on {disk.device}, which it was started"
            " from. Take out all but one of these disks, and start again; a disk that is not needed can be erased in "
            "another computer."
        )


def find_copies(rows: Iterable[Mapping[str, Any]], disk: Path) -> list[Path]:
    """Find other disks with a partition that has the identifier of one of this disk's.

    Args:
        rows: that lsblk(8) gives for all disks, with PATH, PARTUUID and PKNAME.
    """
    parts = [(Path("/dev") / row["pkname"], row["partuuid"]) for row in rows if row["partuuid"] and row["pkname"]]
    own = {uuid for parent, uuid in parts if parent == disk}
    return sorted({parent for parent, uuid in parts if parent != disk and uuid in own})


def run(*argv: str, allowed: Sequence[int] = (0,), stdin: str = "") -> str:
    """Run a tool and give what it printed on its standard output; its warnings go to ours, and so to the log.

    Args:
        allowed: exit statuses that are no failure.
        stdin: what it reads.

    Raises:
        subprocess.CalledProcessError: it failed; `output` has its warnings, too.
    """
    done = subprocess.run(argv, input=stdin, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode not in allowed:
        raise subprocess.CalledProcessError(done.returncode, argv, output=done.stdout + done.stderr)
    # Not among what is read: of a disk above 2 TiB, sfdisk(8) says so on standard error before its JSON.
    print(done.stderr, end="", file=sys.stderr, flush=True)
    return done.stdout
