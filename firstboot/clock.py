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
_EPOCH = Path("/usr/lib/clock-epoch")
"""Has the time of the image, which no clock that goes can be behind (systemd(1))."""
SYNCHRONIZED = Path("/run/systemd/timesync/synchronized")
"""systemd-timesyncd(8) makes it when a server has set the clock."""

_PATIENCE = 60.0
"""Seconds. systemd-timesyncd may have asked for a name before unbound could answer, and asks anew after 30
(timesyncd.conf(5), ConnectionRetrySec=). Afterwards mail that others' certificates matter for waits in the queue,
should the clock be wrong.
"""
_SILENCE = 5.0
"""Seconds until somebody at the console should know for what the device waits."""
_STEP = 0.25


class Known(StrEnum):
    """How the time is known."""

    BY_CLOCK = "the device has a clock that went on without power"
    BY_SERVER = "a time server has set the clock"
    NOT = "no time server has answered: the clock may be late"


def time_was_kept(clocks: Path = _CLOCKS, epoch: Path = _EPOCH) -> bool:
    """Tell whether a real-time clock has gone on while the device was off.

    One without a battery, as a Raspberry Pi 5's mostly is, begins anew with a year long past.

    Args:
        clocks: folder with an entry for each real-time clock (Linux' Documentation/ABI/testing/sysfs-class-rtc).
        epoch: file with the time of the image.
    """
    return any(_shown(clock) >= epoch.stat().st_mtime for clock in clocks.glob("*"))


def _shown(clock: Path) -> int:
    """What a real-time clock shows, in seconds since 1970; 0 when it says that it does not know."""
    try:
        return int((clock / "since_epoch").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return 0


def wait_for_time(
    tell: Callable[[str], object],
    *,
    clocks: Path = _CLOCKS,
    epoch: Path = _EPOCH,
    synchronized: Path = SYNCHRONIZED,
    now: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], object] = time.sleep,
) -> Known:
    """Wait until the time is known, at most a minute.

    Args:
        tell: shows a text to whoever sits at the device.
        clocks, epoch: see `time_was_kept`.
        synchronized: file that is there when a time server has answered.
        now: seconds of a clock that is never set.
        sleep: waits for some seconds.
    """
    if time_was_kept(clocks, epoch):
        return Known.BY_CLOCK
    begun = now()
    told = False
    while not synchronized.exists():
        waited = now() - begun
        if waited > _PATIENCE:
            return Known.NOT
        if waited > _SILENCE and not told:
            tell("DarkPipe: asking a time server, since this device's clock stops without power.")
            told = True
        sleep(_STEP)
    return Known.BY_SERVER


def main() -> int:
    """Run by darkpipe-clock.service."""
    print(wait_for_time(announce))
    return 0


if __name__ == "__main__":
    sys.exit(main())
