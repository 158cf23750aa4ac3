"""Writing files so that a power cut leaves either the old or the new one, whole."""

from __future__ import annotations

import os
from pathlib import Path

_PARTIAL = ".new"


def write_atomically(path: Path, content: bytes, mode: int, owner: tuple[int, int] | None = None) -> None:
    """Replace a file as a whole (rename(2)); on return content and name are on the disk.

    A cut leaves at most a `.new` beside it, which the next call overwrites and `discard_partials` removes.

    Args:
        mode: its permissions, whatever the umask.
        owner: uid and gid, when it shall not belong to the caller.
    """
    partial = partial_of(path)
    partial.unlink(missing_ok=True)
    write_synced(partial, content, mode, owner)
    partial.replace(path)
    sync_folder(path.parent)


def write_once(path: Path, content: bytes, mode: int) -> bool:
    """Make a file, unless there is one by now; on return content and name are on the disk.

    Args:
        mode: its permissions, whatever the umask.

    Returns:
        Whether it was made: of two who do so at once, one is told that it was not.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}{_PARTIAL}")
    partial.unlink(missing_ok=True)
    try:
        write_synced(partial, content, mode)
        path.hardlink_to(partial)
    except FileExistsError:
        return False
    finally:
        partial.unlink(missing_ok=True)
    sync_folder(path.parent)
    return True


def partial_of(path: Path) -> Path:
    """Name what a cut may leave beside a file that is being replaced."""
    return path.with_name(f".{path.name}{_PARTIAL}")


def discard_partials(folder: Path) -> None:
    """Remove what cuts have left of `write_atomically` in a folder; nobody may be writing there."""
    for partial in folder.glob(f".*{_PARTIAL}"):
        partial.unlink()


def write_synced(path: Path, content: bytes, mode: int, owner: tuple[int, int] | None = None) -> None:
    """Make a new file; on return its content and permissions are on the disk, its name may not be.

    Args:
        mode: its permissions, whatever the umask.
        owner: uid and gid, when it shall not belong to the caller.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        if owner is not None:
            os.fchown(descriptor, *owner)
        # After the owner: the other way round a secret would be open to the wrong group for a moment.
        os.fchmod(descriptor, mode)
        os.fsync(descriptor)


def sync_file(path: Path) -> None:
    """Make what somebody else has written to a file or device durable (fsync(2))."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(path: Path) -> None:
    """Make the names in a folder durable: a rename or a new file is safe only then (fsync(2))."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
