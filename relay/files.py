"""Files that are there to stay, or not at all."""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

PARTIAL = ".new"
"""End of the names of files that are not whole yet."""


_LIBC = ctypes.CDLL(None, use_errno=True)


def _linux() -> tuple[int, int]:
    found = re.match(r"(\d+)\.(\d+)", os.uname().release)
    return (int(found[1]), int(found[2])) if found else (0, 0)


_SYNCFS_TELLS = _linux() >= (5, 17)
"""Whether syncfs(2) says that something could not be written, be it a file's octets (5.8) or the journal."""


def sync_folder(folder: Path) -> None:
    """Return when the names in a folder are on the disk (fsync(2))."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_together(descriptors: Sequence[int]) -> dict[int, OSError]:
    """Return when files of one file system are on the disk; gives the failures, by descriptor.

    For one file it is fsync(2). Several are written at once by syncfs(2), with all else that the file system has not
    written yet: a journal is then committed once and not once for each.

    Args:
        descriptors: the one that was opened first comes first. It is told what has gone wrong since then, also when
            somebody else was told so before; a younger one is not.
    """
    if len(descriptors) > 1 and _SYNCFS_TELLS:
        if _LIBC.syncfs(descriptors[0]) == 0:
            return {}
        number = ctypes.get_errno()
        return {descriptor: OSError(number, os.strerror(number)) for descriptor in descriptors}
    failures = {}
    for descriptor in descriptors:
        try:
            os.fsync(descriptor)
        except OSError as error:
            failures[descriptor] = error
    return failures


def replace(path: Path, content: bytes, mode: int = 0o600, group: int | None = None) -> None:
    """Write a file; whatever happens on the way, the old or the new one is there.

    Args:
        mode: its permissions, whatever the umask.
        group: whose it is from the moment on which it has its name; None for the writer's own.

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
            if group is not None:
                os.fchown(descriptor, -1, group)
            os.fsync(descriptor)
        partial.rename(path)
        sync_folder(path.parent)
    except OSError:
        with suppress(OSError):
            partial.unlink()
        raise
