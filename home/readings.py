"""Readings of the device for its status: disk, queue, units, clock, configuration. Each says only what it has seen."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import subprocess
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from firstboot.clock import time_was_kept
from firstboot.why import LEFT_OUT
from home.restarts import read_noted
from home.store import Store
from stack.apply import current
from stack.durable import sync_folder, write_synced

IMAGE = Path("/usr/share/darkpipe/image.json")
"""What the builder has written about the image (builder/project.py)."""

FULL = os.strerror(errno.ENOSPC)
"""What the system says when nothing more fits on a disk."""

_RESTARTING = 600.0
"""Seconds that services may take to come up again, one after the other."""

_PATIENCE = 10.0
"""Seconds for a command; none of them takes one on a device that works."""


class Reading(BaseModel):
    """Base of all readings: a value that JSON can hold."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Problem(Reading):
    """Something that is not as it should be.

    Args:
        blocks_mail: whether no mail can be received because of it.
    """

    found: str
    remedy: str
    blocks_mail: bool = False


class Disk(Reading):
    """The file system with the data.

    Args:
        size, free: bytes; free is what an ordinary program may still write.
        write_error: what the system said when a file was written just now, down to the disk; None when it was good.
        errors: what btrfs has counted per kind since the disk is in use; none is the only good number.
        encrypted: whether it lies on an encrypted device; None when nobody knows, as in a container.
    """

    size: int
    free: int
    write_error: str | None
    errors: dict[str, int]
    encrypted: bool | None = None


class Queue(Reading):
    """Postfix's queue (qshape(1) explains the parts).

    Args:
        messages: number of messages in each part.
        oldest_seconds: age of the oldest message; None when there is none.
    """

    messages: dict[str, int]
    oldest_seconds: int | None


class Unit(Reading):
    """A systemd unit.

    Args:
        state: `active`, `failed`, `inactive`…; `unknown` when systemd does not answer.
        since: when it came into this state.
    """

    name: str
    state: str
    since: datetime | None


class Clock(Reading):
    """The clock.

    Args:
        synchronized: whether a time server has confirmed it since the start; None when nobody knows.
        kept: whether a real-time clock went on while the device was off; otherwise the time may be late until it is
            synchronized.
        built: when the system was built; it cannot be earlier than that.
    """

    now: datetime
    synchronized: bool | None
    kept: bool
    built: datetime


class Image(Reading):
    """The image that runs, as it was built.

    Args:
        project: id of all that is ours in it.
    """

    version: str
    profile: str
    project: str


class Configuration(Reading):
    """The configuration of the services.

    Args:
        generation: name of the one in force; None before the first.
        refused: whether the latest one was refused by a service and is not in force.
        waiting: services that were not restarted for the one in force, and work by one of before.
    """

    generation: str | None
    refused: bool
    waiting: tuple[str, ...] = ()


def read_disk(folder: Path) -> Disk | None:
    """Read the file system of the data; None when it is not mounted.

    Args:
        folder: one on it, in which a file is written; when it is not there, the disk is not mounted.

    Raises:
        OSError: the disk does not let itself be read.
    """
    if not folder.is_dir():
        return None
    sizes = os.statvfs(folder)
    device = device_of(folder)
    return Disk(
        size=sizes.f_blocks * sizes.f_frsize,
        free=sizes.f_bavail * sizes.f_frsize,
        write_error=_write_error(folder),
        errors=btrfs_errors(device),
        encrypted=is_encrypted(device),
    )


def device_of(folder: Path) -> str:
    """Give the name of the device on which a folder lies, `vda5` or `darkpipe-data`; empty when it is none.

    The mount table tells everybody, also a service that may not ask btrfs.
    """
    source = _output(["findmnt", "--noheadings", "--nofsroot", "--output=SOURCE", f"--target={folder}"]).strip()
    return Path(source).name if source.startswith("/dev/") else ""


def is_encrypted(device: str, blocks: Path = Path("/sys/class/block")) -> bool | None:
    """Tell whether a block device lies on dm-crypt, itself or all that it is made from.

    Args:
        device: its name of the kernel or of the device mapper.
        blocks: the kernel's list (sysfs-block-dm in its documentation: dm/uuid of dm-crypt begins with CRYPT).

    Returns:
        None when it is not in the list.
    """
    try:
        found = _block(device, blocks)
        return _on_crypt(found) if found else None
    except OSError:
        return None  # something is just going; it is no fault of the disk


def btrfs_errors(device: str, system: Path = Path("/sys")) -> dict[str, int]:
    """Add up what btrfs has counted for all devices of the file system on one of them; nothing where it is no btrfs.

    The kernel tells it to everybody (btrfs(5), error_stats in sysfs); btrfs-device(8) takes CAP_SYS_ADMIN for it, which
    the service behind the page does not have.

    Args:
        device: as for `is_encrypted`.
    """
    counted: dict[str, int] = {}
    try:
        block = _block(device, system / "class/block")
        if block is None:
            return {}
        for here in (system / "fs/btrfs").glob(f"*/devices/{block.name}"):
            for stats in here.parent.parent.glob("devinfo/*/error_stats"):
                for line in stats.read_text(encoding="utf-8").splitlines():
                    name, _, number = line.partition(" ")
                    if number.strip().isdigit():
                        counted[name] = counted.get(name, 0) + int(number)
    except OSError:
        return {}
    return counted


def _block(device: str, blocks: Path) -> Path | None:
    """Find a device in the kernel's list."""
    named = {one.read_text(encoding="utf-8").strip(): one.parent.parent for one in blocks.glob("*/dm/name")}
    found = named.get(device, blocks / device)
    return found if device and found.exists() else None


def _on_crypt(block: Path) -> bool:
    try:
        if (block / "dm/uuid").read_text(encoding="utf-8").startswith("CRYPT-"):
            return True
    except FileNotFoundError:
        pass  # no device of the device mapper
    below = list((block / "slaves").glob("*"))
    return bool(below) and all(map(_on_crypt, below))


def read_queue() -> Queue | None:
    """List the queue; None when Postfix cannot."""
    done = _run(["postqueue", "-j"])
    if done is None or done.returncode != 0:
        return None
    return parse_queue(done.stdout, time.time())


def parse_queue(listing: str, now: float) -> Queue:
    """Sum up what `postqueue -j` prints, a JSON object for each message.

    Args:
        now: seconds since 1970.
    """
    rows = [json.loads(line) for line in listing.splitlines() if line.strip()]
    messages = dict.fromkeys(("active", "deferred", "hold", "incoming"), 0)
    for row in rows:
        messages[row["queue_name"]] = messages.get(row["queue_name"], 0) + 1
    oldest = min((row["arrival_time"] for row in rows), default=None)
    return Queue(messages=messages, oldest_seconds=None if oldest is None else max(0, int(now - oldest)))


def read_units(names: Sequence[str]) -> tuple[Unit, ...]:
    """Ask systemd for services by their names, without `.service`."""
    shown = _output(["systemctl", "show", "--timestamp=unix", "--property=Id,ActiveState,StateChangeTimestamp", *names])
    rows = [dict(line.partition("=")[::2] for line in block.splitlines()) for block in shown.split("\n\n")]
    found = {row["Id"]: row for row in rows if "Id" in row}
    return tuple(_unit(name, found.get(f"{name}.service", {})) for name in names)


def read_clock() -> Clock:
    """Read the clock, and ask whether it was set by a time server."""
    shown = _output(["timedatectl", "show", "--property=NTPSynchronized", "--value"]).strip()
    return unconfirmed_clock().model_copy(update={"synchronized": {"yes": True, "no": False}.get(shown)})


def unconfirmed_clock() -> Clock:
    """Read the clock, and ask nobody."""
    # Every file of the image has the time of the build.
    built = datetime.fromtimestamp(IMAGE.stat().st_mtime, UTC)
    return Clock(now=datetime.now(UTC), synchronized=None, kept=time_was_kept(), built=built)


def read_image() -> Image:
    """Read which image runs."""
    return Image.model_validate_json(IMAGE.read_bytes())


def read_failed_units() -> tuple[str, ...]:
    """List every unit of the system that has failed; none when systemd does not answer."""
    listed = _output(["systemctl", "list-units", "--failed", "--plain", "--no-legend", "--full"])
    return tuple(line.split()[0] for line in listed.splitlines())


def read_left_out(path: Path = LEFT_OUT) -> str:
    """Tell what of the device's settings could not take effect; empty when all has."""
    try:
        return " ".join(path.read_text(encoding="utf-8").split())
    except OSError:
        return ""


def read_configuration(store: Store) -> Configuration:
    """Tell which generation is in force, whether a refused one lies beside it (stack/apply.py), and who waits for it.

    Raises:
        OSError: the disk does not let itself be read.
    """
    folder = store.configurations
    unfinished = any(folder.glob(".new-*/*"))
    return Configuration(
        generation=current(folder),
        refused=unfinished and not _apply_is_at_work(folder),
        waiting=tuple(sorted(read_noted(store.restarts))) if _age(store.restarts) > _RESTARTING else (),
    )


def _age(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _unit(name: str, row: dict[str, str]) -> Unit:
    stamp = row.get("StateChangeTimestamp", "").removeprefix("@")
    since = datetime.fromtimestamp(int(stamp), UTC) if stamp.isdigit() else None
    return Unit(name=name, state=row.get("ActiveState", "unknown"), since=since)


def _write_error(folder: Path) -> str | None:
    path = folder / f".writable-{os.getpid()}"
    try:
        path.unlink(missing_ok=True)  # of a process of the same number, which a power cut has ended
        try:
            write_synced(path, b"x", 0o600)
            sync_folder(folder)
        finally:
            path.unlink(missing_ok=True)
    except OSError as error:
        return error.strerror
    return None


def _apply_is_at_work(store: Path) -> bool:
    """Tell whether somebody holds the lock of the store (home/store.py)."""
    try:
        with (store.parent / ".lock").open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _output(argv: Sequence[str]) -> str:
    done = _run(argv)
    return done.stdout if done else ""


def _run(argv: Sequence[str]) -> subprocess.CompletedProcess[str] | None:
    try:
        return subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_PATIENCE, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
