"""What the relay has told of its folders in the bucket, remembered for the day on which it has died."""

from __future__ import annotations

import json
from pathlib import Path

from model.bucket import NAME
from model.control import BucketStatus
from stack.durable import write_atomically

SEEN = "bucket-seen.json"
"""File in the drain's folder."""

_MOST_SEEN = 1000
"""Folders that are remembered: a relay takes another one when its disk was set back, and one that lies every second."""


def note_seen(folder: Path, status: BucketStatus) -> None:
    """Remember what the relay has told of its bucket, unless that is known already.

    Args:
        folder: the drain's folder.

    Raises:
        OSError: the disk fails.
    """
    seen = read_seen(folder)
    if status.version > seen.get(status.folder, 0) and (status.folder in seen or len(seen) < _MOST_SEEN):
        text = json.dumps({**seen, status.folder: status.version})
        write_atomically(folder / SEEN, text.encode("ascii"), 0o600)


def forget_seen(folder: Path, name: str) -> None:
    """Remember a folder of the bucket no longer: it was emptied.

    Raises:
        OSError: the disk fails.
    """
    seen = read_seen(folder)
    if seen.pop(name, None) is not None:
        write_atomically(folder / SEEN, json.dumps(seen).encode("ascii"), 0o600)


def read_seen(folder: Path) -> dict[str, int]:
    """Give the latest version of each folder's head that the relay has told of; what cannot be read is nothing."""
    try:
        data = json.loads((folder / SEEN).read_bytes())
        return {str(name): int(version) for name, version in data.items() if NAME.fullmatch(str(name))}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}
