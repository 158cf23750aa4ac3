"""A disk that somebody wants to overwrite: what it is, and the reasons not to."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from builder.errors import BuildError

_SECTOR = 512
"""sysfs counts in it, whatever the disk's own sectors are."""

LARGE = 2 * 10**12
"""Bytes. A disk above it is more likely to be somebody's archive than a new disk for a mail server."""


@dataclass(frozen=True)
class Disk:
    """A whole disk.

    Args:
        path: the device as the user has named it, links followed.
        size: in bytes.
        model: vendor and model; empty when it tells none.
        serial: empty when it tells none.
        read_only: whether the kernel refuses to write to it.
        uses: what it is in use for, in words.
    """

    path: Path
    size: int
    model: str
    serial: str
    read_only: bool
    uses: tuple[str, ...]

    @property
    def name(self) -> str:
        """The kernel's name, such as `sdb`."""
        return self.path.name

    def describe(self) -> str:
        """Model, size and serial number in a line."""
        serial = f", serial number {self.serial}" if self.serial else ", no serial number"
        return f"{self.path}: {self.model or 'no model name'}, {self.size / 10**9:.1f} GB{serial}"


def examine_disk(device: Path, system: Path = Path("/")) -> Disk:
    """Read what the kernel knows about a block device.

    Args:
        system: the root in which `sys` and `proc` are looked up.

    Raises:
        BuildError: it is not there, no block device, or not a whole disk.
    """
    path = device.resolve()
    try:
        status = path.stat()
    except OSError as error:
        raise BuildError(f"{device} cannot be used: {error.strerror}", "lsblk lists the disks") from error
    if not stat.S_ISBLK(status.st_mode):
        raise BuildError(f"{device} is no disk", "lsblk lists the disks; for a file there is --plain-file")
    return examine_number(path, os.major(status.st_rdev), os.minor(status.st_rdev), system)


def examine_number(path: Path, major: int, minor: int, system: Path = Path("/")) -> Disk:
    """As `examine_disk`, for a device number.

    Raises:
        BuildError: it is no whole disk that the kernel knows.
    """
    folder = (system / f"sys/dev/block/{major}:{minor}").resolve()
    if not folder.is_dir():
        raise BuildError(f"the kernel does not know the disk {path}", "lsblk lists the disks")
    if (folder / "partition").exists():
        message = f"{path} is a partition of /dev/{folder.parent.name}"
        raise BuildError(message, "name the whole disk; the image has a partition table of its own")
    vendor, model = _text(folder / "device/vendor"), _text(folder / "device/model")
    return Disk(
        path=path,
        size=int(_text(folder / "size") or 0) * _SECTOR,
        model=f"{vendor} {model}".strip(),
        serial=_text(folder / "device/serial") or _text(folder / "serial"),
        read_only=_text(folder / "ro") == "1",
        uses=tuple(_uses(folder, system)),
    )


def refuse(disk: Disk, smallest: int, *, force: bool) -> None:
    """Give every reason not to write.

    Args:
        smallest: size in bytes that the image's profile asks for.
        force: write to a suspiciously large disk; nothing else is overruled.

    Raises:
        BuildError: there is a reason.
    """
    if disk.uses:
        raise BuildError(
            f"{disk.path} is in use: {'; '.join(disk.uses)}", "is it the right disk? If so, release it first"
        )
    if disk.read_only:
        raise BuildError(f"{disk.path} cannot be written", "look for a switch on the card, or hdparm -r0")
    if disk.size < smallest:
        message = f"{disk.path} has {disk.size / 10**9:.1f} GB, the image needs {smallest / 10**9:.0f} GB"
        raise BuildError(message, "use a larger disk")
    if disk.size > LARGE and not force:
        size = f"{disk.path} has {disk.size / 10**12:.1f} TB"
        message = f"{size}: a disk above {LARGE // 10**12} TB is rather an archive than a new disk for a mail server"
        raise BuildError(message, "if all on it may be lost, add --force")


def _uses(folder: Path, system: Path) -> Iterator[str]:
    """Look at the disk and at each of its partitions."""
    parts = [folder, *sorted(path.parent for path in folder.glob("*/partition"))]
    numbers = {_text(part / "dev"): part.name for part in parts}
    mounts = _lines(system / "proc/self/mountinfo")
    for fields in (line.split() for line in mounts):
        # proc_pid_mountinfo(5). btrfs has numbers of its own, and names its device behind the separator.
        source = fields[fields.index("-") + 2]
        name = numbers.get(fields[2]) or numbers.get(_number(source))
        if name:
            yield f"{name} is mounted on {_unescaped(fields[4])}"
    for line in _lines(system / "proc/swaps")[1:]:
        if name := numbers.get(_number(_unescaped(line.split()[0]))):
            yield f"{name} is swap space"
    for part in parts:
        for holder in sorted((part / "holders").glob("*")):
            title = _text(system / f"sys/class/block/{holder.name}/dm/name") or holder.name
            yield f"{part.name} is held by {title} (LVM, encryption or RAID)"


def _number(source: str) -> str:
    """Give a device's number as sysfs writes it."""
    if not source.startswith("/dev/"):
        return ""
    try:
        status = Path(source).stat()
    except OSError:
        return ""
    return f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}" if stat.S_ISBLK(status.st_mode) else ""


def _lines(path: Path) -> list[str]:
    return path.read_text(errors="replace").splitlines() if path.exists() else []


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


def _unescaped(text: str) -> str:
    return text.encode().decode("unicode_escape")
