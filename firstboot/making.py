"""Making a file system in a partition that the image has left empty, so that a power cut leaves none or a whole one.

The mark of a whole one is a text in the partition's first sector, which ext4 and btrfs leave to boot loaders: a disk
writes a sector, or it does not. A label will not do, since ext4 keeps it and its checksum in two sectors. The image
writes zeros over the mark, as over all else that is read first, so that what an older one has left there is not found.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from firstboot.partitions import run
from model.layout import FileSystem

_SECTOR = 512

_TOOLS = {
    # No blocks for root alone, as systemd-repart(8) has it, which makes the same on a disk with GPT.
    FileSystem.EXT4: ("mkfs.ext4", "-q", "-F", "-m", "0", "-L"),
    FileSystem.BTRFS: ("mkfs.btrfs", "--quiet", "--force", "--label"),
}


def ensure_file_system(partition: Path, kind: FileSystem, label: str, tool: Callable[..., str] = run) -> bool:
    """Make a file system, unless one was finished here.

    Args:
        partition: device or image; not mounted.
        tool: runs a command line.

    Returns:
        Whether it was made now.

    Raises:
        subprocess.CalledProcessError: it cannot be made.
        OSError: the partition cannot be read or written.
    """
    if is_finished(partition, label):
        return False
    tool(*_TOOLS[kind], label, str(partition))
    descriptor = os.open(partition, os.O_RDWR)
    try:
        os.fsync(descriptor)
        os.pwrite(descriptor, _mark(label), 0)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return True


def is_finished(partition: Path, label: str) -> bool:
    """Tell whether a file system was made here and finished.

    Raises:
        OSError: the partition cannot be read.
    """
    with partition.open("rb") as file:
        return file.read(_SECTOR) == _mark(label)


def _mark(label: str) -> bytes:
    return f"{label}: finished\n".encode().ljust(_SECTOR, b"\0")
