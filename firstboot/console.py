"""Telling the person in front of the device something, on every console that it has."""

from __future__ import annotations

import os
from pathlib import Path

_ACTIVE = Path("/sys/class/tty/console/active")
_DEVICES = Path("/dev")


def announce(text: str, active: Path = _ACTIVE, devices: Path = _DEVICES) -> bool:
    """Write a text to every active console: the screen and the serial line alike.

    It goes past the journal on purpose: a first password must not lie in a log.

    Returns:
        Whether at least one console has taken it.
    """
    content = f"\n{text.rstrip()}\n".encode()
    # A container sees the names of its host's consoles and has none of the devices, only /dev/console.
    written = [_write(devices / name, content) for name in _names(active)]
    return any(written) or _write(devices / "console", content)


def _names(active: Path) -> list[str]:
    try:
        return active.read_text().split()
    except OSError:
        return []


def _write(device: Path, content: bytes) -> bool:
    try:
        descriptor = os.open(device, os.O_WRONLY | os.O_NOCTTY)
    except OSError:
        return False
    try:
        while content:
            content = content[os.write(descriptor, content) :]
    except OSError:  # a serial port that the firmware promises and the machine lacks: EIO
        return False
    finally:
        os.close(descriptor)
    return True
