"""Waiting for a time server, on a device whose clock stops without power, before others' certificates are judged.

The clock is then too late by as long as the device was off: never before the time of its last start (the initramfs
sets it to that), nor before that of its image (systemd(1), /usr/lib/clock-epoch).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path

from firstboot.console import announce

_CLOCKS = Path("/sys/class/rtc")
_SYNCHRONIZED = Path("/run/systemd/timesync/synchronized")
"""systemd-timesyncd(8) makes it when a server has set the clock."""

_PATIENCE = 60.0
"""Seconds; afterwards mail that others' certificates matter for waits in the queue, should the clock be wrong."""
_SILENCE = 5.0
"""Seconds until somebody at the console should know for what the device waits."""
_STEP = 0.25


class Known(StrEnum):
    """How the time is known."""

    BY_CLOCK = "the device has a clock that goes on without power"
    BY_SERVER = "a time server has set the clock"
    NOT = "no time server has answered: the clock may be late"


def wait_for_time(
    tell: Callable[[str], object],
    *,
    clocks: Path = _CLOCKS,
    synchronized: Path = _SYNCHRONIZED,
    now: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], object] = time.sleep,
) -> Known:
    """Wait until the time is known, at most a minute.

    Args:
        tell: shows a text to whoever sits at the device.
        clocks: folder with an entry for each real-time clock (sysfs).
        synchronized: file that is there when a time server has answered.
        now: seconds of a clock that is never set.
        sleep: waits for some seconds.
    """
    if clocks.is_dir() and any(clocks.iterdir()):
        return Known.BY_CLOCK
    begun = now()
    told = False
    while not synchronized.exists():
        waited = now() - begun
        if waited > _PATIENCE:
            return Known.NOT
        if waited > _SILENCE and not told:
            tell("DarkPipe: asking a time server, since this device has no clock that goes on without power.")
            told = True
        sleep(_STEP)
    return Known.BY_SERVER


def main() -> int:
    """Run by darkpipe-clock.service."""
    print(wait_for_time(announce))
    return 0


if __name__ == "__main__":
    sys.exit(main())
