"""When home was there last, and when it took something: kept by two empty files' times, since minutes do not matter."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from enum import StrEnum
from pathlib import Path

_STEP = 60_000
"""Milliseconds; the files' times are set no more often."""


class Sign(StrEnum):
    """What home does; the name of the file."""

    SEEN = "home-seen"
    """It asks for something."""
    DRAINED = "home-drained"
    """It removes an item that it has taken."""


class Presence:
    """Remembers home's signs of life.

    Args:
        folder: for the files.
        now: seconds since 1970.
    """

    def __init__(self, folder: Path, now: Callable[[], float]) -> None:
        self._folder, self._now = folder, now
        self._lock = threading.Lock()
        self._last = {sign: _time_of(folder / sign) for sign in Sign}
        self._written = dict(self._last)

    def note(self, sign: Sign) -> None:
        """Note that home is there."""
        now = int(self._now() * 1000)
        with self._lock:
            self._last[sign] = now
            written = self._written[sign]
            if written is not None and abs(now - written) < _STEP:
                return
            self._written[sign] = now
        # A disk that has failed is told elsewhere, and home's request has nothing to do with this.
        with suppress(OSError):
            path = self._folder / sign
            path.touch(mode=0o600)
            os.utime(path, ns=(now * 1_000_000, now * 1_000_000))

    def last(self, sign: Sign) -> int | None:
        """Give the time of the last one, in milliseconds since 1970; None for never."""
        with self._lock:
            return self._last[sign]


def _time_of(path: Path) -> int | None:
    try:
        return path.stat().st_mtime_ns // 1_000_000
    except FileNotFoundError:
        return None
