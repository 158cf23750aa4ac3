"""How much room the data disk has, and how much has to stay: for mail under way, and for all that works on the disk."""

from __future__ import annotations

import os
from pathlib import Path

LEAST_FREE = 512 * 2**20
"""Bytes. Postfix refuses mail when less than 1.5 messages of the largest size (75 MiB) fit; each lies in the queue
and in a mailbox for a moment, and the journal and a new configuration want to be written as well."""


def free_room(folder: Path) -> int:
    """Give the bytes that an ordinary program may still write on the disk of a folder.

    Raises:
        OSError: the disk does not answer.
    """
    sizes = os.statvfs(folder)
    return sizes.f_bavail * sizes.f_frsize


def lacks_room(free: int, more: int) -> bool:
    """Tell whether so many bytes more would leave less than has to stay."""
    return free - more < LEAST_FREE


def megabytes(number: int) -> str:
    """Write a number of bytes for people."""
    return f"{number / 10**9:.1f} GB" if number >= 10**9 else f"{number / 10**6:.0f} MB"
