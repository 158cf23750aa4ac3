"""A copy of the encrypted disk's head, with which the disk opens again after its own was destroyed."""

from __future__ import annotations

import os
from pathlib import Path

from firstboot.luks import Luks
from firstboot.unlocking import Refused
from stack.durable import sync_file, sync_folder


def copy_head(luks: Luks, file: Path, *, data: Path, state: Path) -> None:
    """Copy the head to a new file for root's eyes only; a cut leaves none of that name, or a whole one.

    Args:
        data: folder where the disk is mounted: a copy there would be lost with it.
        state: folder of what is not encrypted: whoever takes the device would have keys that were revoked.

    Raises:
        Refused: the file is there, or must not lie in that place.
        LuksError, OSError: it cannot be written.
    """
    folder = file.parent.resolve()
    if os.path.lexists(file):
        raise Refused(f"{file} is there already; choose another name")
    if folder.is_relative_to(data.resolve()):
        raise Refused(f"{file} would lie on the very disk that it is to open again; choose a place outside of {data}")
    if folder.is_relative_to(state.resolve()):
        raise Refused(f"{file} would lie beside the disk for any thief, and stay; choose a place outside of {state}")
    partial = folder / f".{file.name}.new"
    partial.unlink(missing_ok=True)
    try:
        luks.backup(partial)
        sync_file(partial)
        partial.rename(folder / file.name)
        sync_folder(folder)
    finally:
        partial.unlink(missing_ok=True)
