"""Sequence numbers that are never used twice: the queue's epoch, and the highest number that may be in use."""

from __future__ import annotations

import json
import re
import secrets
from pathlib import Path

from model.control import SEQUENCE_BLOCK
from relay.files import replace

_FILE = "epoch.json"
_EPOCH = re.compile(r"[0-9a-f]{32}", re.ASCII)


class Sequence:
    """Gives sequence numbers. Its owner lets one thread in at a time.

    Args:
        folder: where it keeps its file; when there is none, an epoch begins.
        highest: number that is known to be in use.

    Raises:
        OSError: the disk has failed.
    """

    def __init__(self, folder: Path, highest: int) -> None:
        self._folder = folder
        found = _read(folder / _FILE)
        self.epoch, aside = found or (secrets.token_hex(16), 0)
        """32 hexadecimal digits."""
        self._last = self._aside = max(aside, highest)
        if not found:
            self._set_aside(self._last)

    def take(self) -> int:
        """Give the next number.

        Raises:
            OSError: the disk has failed; the number is not given away.
        """
        if self._last >= self._aside:
            self._set_aside(self._last + SEQUENCE_BLOCK)
        self._last += 1
        return self._last

    def _set_aside(self, last: int) -> None:
        text = json.dumps({"epoch": self.epoch, "aside": last})
        replace(self._folder / _FILE, text.encode())
        self._aside = last


def _read(path: Path) -> tuple[str, int] | None:
    """Give the epoch and the highest number set aside; None when that cannot be known, so that another epoch begins."""
    try:
        data = json.loads(path.read_bytes())
        epoch, aside = data["epoch"], data["aside"]
    except (FileNotFoundError, ValueError, LookupError, TypeError):
        return None
    if not isinstance(epoch, str) or not _EPOCH.fullmatch(epoch) or not isinstance(aside, int) or aside < 0:
        return None
    return epoch, aside


def is_own(name: str) -> bool:
    """Tell whether a file in the folder is this module's."""
    return name == _FILE
