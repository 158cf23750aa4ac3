"""The pre-flight as a job: darkpipe-preflight.service runs it, and a file says how far it is and what it has found.

systemd starts a unit that is running no second time: whoever presses the button twice waits for the same result.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ConfigDict, ValidationError

from home.command import EXPECTED
from home.pair_state import read_told
from home.preflight import Looked
from home.preflight_world import Flight, fly
from home.seen import PREFLIGHT, PreflightSeen
from home.store import Store
from model.problems import Refusal
from stack.durable import discard_partials, write_atomically

_BOOT = "DARKPIPE_BOOT"
"""In the environment of those who read or write the file: %b of systemd.unit(5). The desk sees no /proc/sys."""


class Preflight(PreflightSeen):
    """The file.

    Args:
        unknown: what the steps stand on, and nobody knows.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: tuple[Looked, ...] = ()
    unknown: tuple[str, ...] = ()


def boot_id() -> str:
    """Tell which start of the device it is."""
    return os.environ[_BOOT]


def read_preflight(path: Path) -> Preflight | None:
    """Read the file; None when there has been none, or when it says nothing that this version understands."""
    try:
        return Preflight.model_validate_json(path.read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def begin(path: Path, boot: str, now: float, at: datetime) -> None:
    """Say that one was asked for, unless one is under way: whoever has asked sees it at once.

    Raises:
        OSError: the file cannot be written.
    """
    before = read_preflight(path)
    if before is None or not before.runs(boot, now):
        _write(path, Preflight(boot=boot, began=now, began_at=at))


def fail(path: Path, error: str, at: datetime) -> None:
    """Say that the one that was asked for cannot be done.

    Raises:
        OSError: the file cannot be written.
    """
    before = read_preflight(path)
    if before is not None:
        _write(path, before.model_copy(update={"error": error, "finished_at": at}))


def run(
    path: Path,
    look: Callable[[], Flight],
    boot: str,
    relay: str = "",
    clock: Callable[[], float] = time.monotonic,
    wall: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Preflight:
    """Run it, and keep in a file that it runs, and what came of it.

    Args:
        look: takes up to a minute.
        relay: id of the relay.

    Raises:
        OSError: the file cannot be written.
    """
    state = Preflight(boot=boot, began=clock(), began_at=wall(), relay=relay)
    _write(path, state)
    try:
        found = look()
        told = {"outcome": found.outcome, "steps": found.looked, "unknown": found.unknown}
    except (Refusal, *EXPECTED) as error:
        told = {"error": str(error)}
    state = state.model_copy(update={**told, "finished_at": wall()})
    _write(path, state)
    return state


def keep(path: Path, found: Flight, began_at: datetime, at: datetime, relay: str) -> None:
    """Keep what a command has found, which nobody waits for.

    Args:
        relay: id of the relay.

    Raises:
        OSError: the file cannot be written.
    """
    done = {"outcome": found.outcome, "steps": found.looked, "unknown": found.unknown, "finished_at": at}
    _write(path, Preflight(boot="", began=0.0, began_at=began_at, relay=relay).model_copy(update=done))


def _write(path: Path, state: Preflight) -> None:
    write_atomically(path, state.model_dump_json(indent=1).encode() + b"\n", 0o600)


def main() -> int:
    """Run as systemd's service; what it has found is no failure of the service."""
    store = Store()
    path = store.data / PREFLIGHT
    discard_partials(path.parent)
    pairing = read_told()
    run(path, lambda: fly(store), boot_id(), pairing.relay_id if pairing else "")
    return 0


if __name__ == "__main__":
    sys.exit(main())
