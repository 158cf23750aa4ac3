"""What lies on `state` from the first start on, before anything is decided: the machine id, and services' folders."""

from __future__ import annotations

from pathlib import Path

from stack.durable import write_atomically

_MACHINE_ID = Path("/etc/machine-id")

FOLDERS = ("unlock",)
"""On `state`: what a service binds into its cage has to be there before (systemd.exec(5): BindPaths=)."""


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
