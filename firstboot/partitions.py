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
    command_line: str, by_partuuid: Path = Path("/dev/disk/by-partuuid"), layout_file: Path = _LAYOUT
) -> Disk:
    """Find the disk with the root partition that the kernel's command line names.

    Raises:
        DiskError: the command line names none, or it is not there.
    """
    words = dict(word.partition("=")[::2] for word in command_line.split())
    uuid = words.get("darkpipe.root")
    if uuid is None:
        raise DiskError("the kernel's command line names no root partition: this is no DarkPipe disk image")
    partition = Path("/sys/class/block") / (by_partuuid / uuid).resolve().name
    if not partition.exists():
        raise DiskError(f"the root partition {uuid} has gone: is the disk still plugged in?")
    layout = Layout.model_validate_json(layout_file.read_text(encoding="utf-8"))
    return Disk(Path("/dev") / partition.resolve().parent.name, layout)


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
