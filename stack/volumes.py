"""The persistent folders of the Stack, `/data/<name>`."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Iterable
from pathlib import Path

from stack.component import Volume
from stack.durable import sync_folder
from stack.owners import Owners


def make_volumes(volumes: Iterable[Volume], data: Path, owners: Owners) -> None:
    """Make the folders that are missing, and give each its owner and mode; what is inside belongs to its service."""
    for volume in volumes:
        folder = data / volume.name
        if not folder.exists():
            _make_folder(folder)
        uid, gid = owners.ids(volume.user, volume.group)
        mode = int(volume.mode, 8)
        found = folder.stat()
        if (found.st_uid, found.st_gid) != (uid, gid):
            os.chown(folder, uid, gid)
        if stat.S_IMODE(folder.stat().st_mode) != mode:
            folder.chmod(mode)
    sync_folder(data)


def _make_folder(folder: Path) -> None:
    """Make a folder; on btrfs a subvolume (btrfs-subvolume(8)), so that each volume can have snapshots of its own."""
    kind = subprocess.run(
        ["stat", "--file-system", "--format=%T", str(folder.parent)], stdout=subprocess.PIPE, text=True, check=True
    ).stdout.strip()
    if kind == "btrfs":
        subprocess.run(["btrfs", "--quiet", "subvolume", "create", str(folder)], check=True)
    else:
        # The mode is set by the caller, since mkdir(2) is subject to the umask and drops the set-group-id bit.
        folder.mkdir(mode=0o700)
