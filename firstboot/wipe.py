"""Removing secrets from a partition that others can read."""

from __future__ import annotations

import os
from pathlib import Path

from stack.durable import sync_folder


def wipe(path: Path) -> None:
    """Overwrite and delete; on flash memory the old blocks may survive, which is why nothing in a seed stays valid."""
    with path.open("r+b") as file:
        file.write(bytes(path.stat().st_size))
        file.flush()
        os.fsync(file.fileno())
    path.unlink()
    sync_folder(path.parent)
