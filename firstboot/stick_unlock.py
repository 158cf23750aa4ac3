"""The locked disk and the sticks: while somebody may type, each stick that is plugged in is tried, too."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

from firstboot.key_notes import note_key, today
from firstboot.luks import Luks, LuksError, Use
from firstboot.partitions import DiskError, run
from firstboot.unlocking import Session
from firstboot.usb_key import StickError, Sticks, add_stick

_LOOK_AGAIN = 1.0
"""Seconds between two looks at which disks are there."""

_PATIENCE = 10.0
"""Seconds for which a stick that is being read may keep the mail waiting, so as not to stay mounted."""


def watch_sticks(
    session: Session,
    luks: Luks,
    disk: UUID,
    sticks: Sticks,
    devices: Callable[[], object],
    unlock: Callable[[bytes], bool],
    settle: Callable[[], object] = lambda: run("udevadm", "settle"),
) -> None:
    """Try the sticks that are plugged in, and again whenever the disks have changed, until the disk is unlocked.

    Args:
        disk: the container's identifier.
        devices: gives what is compared to see whether the disks have changed.
        unlock: unlocks the disk with a key, and tells whether it did.
        settle: waits until udev knows them.
    """
    seen: object = None
    while not session.finished.is_set():
        now = devices()
        if now != seen:
            seen = now
            try:
                settle()
                if not any(slot.use is Use.USB_KEY for slot in luks.slots()):
                    return
                if any(_try(session, unlock, key) for key in sticks.keys(disk)):
                    print("the disk for the mail was unlocked by the key on a USB stick", flush=True)
                    return
            except (LuksError, DiskError, OSError, subprocess.CalledProcessError) as error:
                # The page and the console are still there.
                print(f"no stick can be tried: {error}", flush=True)
        session.finished.wait(_LOOK_AGAIN)


@contextmanager
def beside(watch: Callable[[], object]) -> Iterator[None]:
    """Have sticks watched beside the block, after which none is read any more, unless one hangs."""
    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        thread.join(_PATIENCE)


def _try(session: Session, unlock: Callable[[bytes], bool], key: bytes) -> bool:
    return not session.finished.is_set() and session.offer(lambda: unlock(key))


def give_stick(
    luks: Luks,
    disk: UUID,
    known: bytes,
    sticks: Sticks,
    tell: Callable[[str], object],
    announce: Callable[[str], object],
    data: Path,
) -> None:
    """Put a key for a new disk on the stick that is plugged in; without one the passphrase has to do until later.

    Args:
        disk: the container's identifier.
        known: a key that opens it.
        tell: is told what is going on.
        announce: is told, for whoever sits at the device, when it was not done.
        data: folder where the disk is mounted.
    """
    tell("putting a key on the USB stick")
    try:
        slot = add_stick(luks, disk, known, sticks)
        note_key(luks, slot.number, data, today(), sticks)
    except (StickError, LuksError, DiskError, OSError, subprocess.CalledProcessError) as error:
        text = str(error).rstrip(".")
        announce(
            f"DarkPipe: no key was put on a USB stick: {text}. Until then the passphrase unlocks the disk. Later: "
            "darkpipe disk change-policy usb-key"
        )
