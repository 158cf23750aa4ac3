"""Files that are there to stay, or not at all."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

PARTIAL = ".new"
"""End of the names of files that are not whole yet."""


def sync_folder(folder: Path) -> None:
    """Return when the names in a folder are on the disk (fsync(2))."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Write a file; whatever happens on the way, the old or the new one is there.

    Args:
        mode: its permissions, whatever the umask.

    Raises:
        OSError: the disk has failed.
    """
    partial = path.with_name(path.name + PARTIAL)
    try:
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fchmod(descriptor, mode)
            os.fsync(descriptor)
        partial.rename(path)
        sync_folder(path.parent)
    except OSError:
        with suppress(OSError):
            partial.unlink()
        raise
