"""Removing secrets from a partition that others can read."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from stack.durable import sync_folder

_AT_ONCE = 2**20
"""Octets; whoever has had the card in hand may have put a file on it that is larger than the memory."""


def wipe(path: Path) -> None:
    """Overwrite and delete; on flash memory the old blocks may survive, which is why nothing in a seed stays valid."""
    found = path.stat()
    # Windows marks files as read-only that came from a CD, say; root without CAP_DAC_OVERRIDE is held to that.
    path.chmod(stat.S_IMODE(found.st_mode) | stat.S_IWUSR)
    with path.open("r+b") as file:
        for start in range(0, found.st_size, _AT_ONCE):
            file.write(bytes(min(_AT_ONCE, found.st_size - start)))
        file.flush()
        os.fsync(file.fileno())
    path.unlink()
    sync_folder(path.parent)
