"""The device's disk: at the first start its missing partitions are made, at each start state and data are mounted.

Every step may be cut off by a power failure: systemd-repart writes the partition table last, after the new
partitions' file systems, so that the next start finds either none of them or all of them whole.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from firstboot.console import announce
from firstboot.superblock import mend_superblock
from stack.durable import write_atomically

_DEFINITIONS = Path("/usr/share/darkpipe/repart.d")
_COMMAND_LINE = Path("/proc/cmdline")
_MACHINE_ID = Path("/etc/machine-id")


class DiskError(Exception):
    """The disk cannot be used; the text says what was found and what to do."""


@dataclass(frozen=True)
class Disk:
    """The disk that the system was started from, for instance `/dev/vda`."""

    device: Path

    def partition(self, label: str) -> Path | None:
        """Find a partition of this disk by its label; other disks may carry the same labels.

        Returns:
            Its device, or None.
        """
        # sysfs has no labels of partitions that were added while the kernel ran; lsblk(8) asks udev.
        listed = _run("lsblk", "--json", "--list", "--output", "PATH,PARTLABEL", str(self.device))
        for row in json.loads(listed)["blockdevices"]:
            if row["partlabel"] == label:
                return Path(row["path"])
        return None


def system_disk(command_line: str, by_partuuid: Path = Path("/dev/disk/by-partuuid")) -> Disk:
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
    return Disk(Path("/dev") / partition.resolve().parent.name)


def prepare(disk: Disk) -> None:
    """Make the missing partitions, mount state and data, and keep the machine id.

    Raises:
        DiskError: the disk is too small or broken.
    """
    first = disk.partition("darkpipe-data") is None
    if first:
        announce(f"DarkPipe: first start. Making partitions and file systems on {disk.device}: minutes, if it is slow.")
    _repart(disk)
    _run("udevadm", "settle")
    if first:
        announce("DarkPipe: partitions and file systems are made; checking and mounting them.")
    _mount(disk, "darkpipe-state", Path("/state"), "ext4", "noatime")
    _keep_machine_id(Path("/state/machine-id"))
    _mount(disk, "darkpipe-data", Path("/data"), "btrfs", "noatime,compress=zstd:1")
    _run("btrfs", "filesystem", "resize", "max", "/data")
    if first:
        announce("DarkPipe: the disk is ready.")


def _repart(disk: Disk) -> None:
    """Make and grow partitions as repart.d says; running it again changes nothing (systemd-repart(8))."""
    try:
        print(_run("systemd-repart", "--dry-run=no", f"--definitions={_DEFINITIONS}", str(disk.device)))
    except subprocess.CalledProcessError as error:
        raise DiskError(
            f"{disk.device} cannot be partitioned:\n{error.stdout}\n"
            "Is it smaller than 16 GB, which is the least that DarkPipe needs, or is it broken?"
        ) from error


def _mount(disk: Disk, label: str, target: Path, kind: str, options: str) -> None:
    if target.is_mount():
        return
    partition = disk.partition(label)
    if partition is None:
        raise DiskError(f"{disk.device} has no partition {label}")
    if kind == "ext4":
        # Status 1 means that errors were mended (e2fsck(8)).
        _run("fsck.ext4", "-p", str(partition), allowed=(0, 1))
    mount = ("mount", "--types", kind, "--options", f"nosuid,nodev,noexec,{options}", str(partition), str(target))
    try:
        _run(*mount)
    except subprocess.CalledProcessError:
        if kind != "btrfs" or not mend_superblock(partition):
            raise
        print(f"the superblock of {partition} was torn by a power cut, and is mended")
        _run(*mount)


def _keep_machine_id(kept: Path) -> None:
    """Store the id that this start was given, unless there is one already; the initramfs reads it at the next start."""
    if not kept.exists():
        write_atomically(kept, _MACHINE_ID.read_bytes(), 0o444)


def _run(*argv: str, allowed: Sequence[int] = (0,)) -> str:
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode not in allowed:
        raise subprocess.CalledProcessError(done.returncode, argv, output=done.stdout)
    return done.stdout


def main() -> int:
    """Run by darkpipe-disk.service; exit status 1 after a text on the console."""
    try:
        prepare(system_disk(_COMMAND_LINE.read_text()))
    except DiskError as error:
        announce(f"DarkPipe cannot use its disk: {error}")
        print(error, file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as error:
        text = f"{' '.join(error.cmd)} failed:\n{error.stdout}"
        announce(f"DarkPipe cannot use its disk: {text}\nStart again; if it stays like this, the disk is broken.")
        print(text, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
