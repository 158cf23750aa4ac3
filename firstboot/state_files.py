"""`state` before anything is decided: its file system is mended, and it gets the machine id and services' folders."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from firstboot.console import announce
from firstboot.partitions import DiskError, label, run
from stack.durable import write_atomically

_MACHINE_ID = Path("/etc/machine-id")
_MENDED = (0, 1)
"""Exit statuses of e2fsck(8): nothing was wrong, or all of it was mended."""

FOLDERS = ("unlock",)
"""On `state`: what a service binds into its cage has to be there before (systemd.exec(5): BindPaths=)."""


def mend_state(partition: Path, tool: Callable[..., str] = run, tell: Callable[[str], object] = announce) -> None:
    """Mend the file system of `state`, which is not mounted, with whatever that costs (e2fsck(8)).

    What is lost there can be had again, and mail is never among it; a device that does not start because of it keeps
    all mail away from its owner, who has no other tool.

    Args:
        tool: runs a command line.
        tell: tells whoever sits at the device.

    Raises:
        DiskError: it cannot be mended.
    """
    try:
        tool("fsck.ext4", "-p", str(partition), allowed=_MENDED)
    except subprocess.CalledProcessError as error:
        print(error.output, file=sys.stderr, flush=True)
    else:
        return
    try:
        # It finds a copy of a superblock that is gone, too.
        print(tool("fsck.ext4", "-f", "-y", str(partition), allowed=_MENDED), flush=True)
    except subprocess.CalledProcessError as error:
        print(error.output, file=sys.stderr, flush=True)
        raise DiskError(
            f"{partition}, which holds the device's settings and no mail, is damaged and cannot be mended. Start "
            "again; if it stays like this, have a computer with Linux make it anew: `sudo mkfs.ext4 -L "
            f"{label('state')} /dev/…`, with this very partition of the disk. The device then begins without settings, "
            "and finds the mail again"
        ) from error
    tell(
        f"DarkPipe: {partition}, which holds the device's settings and no mail, was damaged, and is mended. Settings "
        "may be missing. If it happens again, the disk is failing."
    )


def make_folders(state: Path) -> None:
    """Make the folders that services see of `state`; doing it again is harmless.

    Raises:
        OSError: the disk has failed.
    """
    for name in FOLDERS:
        (state / name).mkdir(mode=0o700, exist_ok=True)


def keep_machine_id(kept: Path) -> None:
    """Store the id that this start was given, unless there is one already; the initramfs reads it at the next start.

    Raises:
        OSError: the disk has failed.
    """
    if not kept.exists():
        write_atomically(kept, _MACHINE_ID.read_bytes(), 0o444)
