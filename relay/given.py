"""Which of home's files are in force on the relay: a digest of each, written when that is done.

What was written and has not come into force, for a full disk or a kill in between, home brings once more.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from relay import files


def note(record: Path, name: str, content: bytes) -> None:
    """Write down that a file is in force.

    Raises:
        OSError: the disk has failed.
    """
    files.replace(record, json.dumps({**_read(record), name: _digest(content)}, sort_keys=True).encode())


def is_in_force(record: Path, name: str, content: bytes) -> bool:
    """Tell whether a file with this content is."""
    return _read(record).get(name) == _digest(content)


def _read(record: Path) -> dict[str, str]:
    try:
        found = json.loads(record.read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
