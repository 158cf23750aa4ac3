"""The pre-flight as a job: darkpipe-preflight.service runs it, and a file says how far it is and what it has found.

systemd starts a unit that is running no second time: whoever presses the button twice waits for the same result.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from home.command import EXPECTED
from home.dns_judges import Outcome
from home.preflight import Looked
from home.preflight_world import Flight, fly
from home.store import Store
from model.problems import Refusal
from stack.durable import discard_partials, write_atomically

RESULT = Path("setup/preflight.json")
"""Below `data`."""

_BOOT = Path("/proc/sys/kernel/random/boot_id")

LONGEST = 180.0
"""Seconds; a run takes up to a minute, and systemd ends it after these (RuntimeMaxSec= in the unit)."""


class Preflight(BaseModel):
    """The file.

    Args:
        boot: which start of the device it was begun in (random(4), boot_id).
        began: when, seconds of CLOCK_MONOTONIC, which counts from that start.
        began_at: when, by the clock.
        finished_at: None until it is done.
        outcome: the worst of all steps; None until it is done, and when it could not be done.
        error: why it could not be done; empty otherwise.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    boot: str
    began: float
    began_at: datetime
    finished_at: datetime | None = None
    outcome: Outcome | None = None
    steps: tuple[Looked, ...] = ()
    unknown: tuple[str, ...] = ()
    error: str = ""

    @property
    def passed(self) -> bool:
        """Whether mail can come and go, as far as this shows."""
        return self.outcome in {Outcome.GOOD, Outcome.WARNING}

    def runs(self, boot: str, now: float) -> bool:
        """Tell whether it is under way; one that was cut off is not.

        Args:
            boot: which start of the device it is.
            now: seconds of CLOCK_MONOTONIC.
        """
        return self.finished_at is None and self.boot == boot and now - self.began < LONGEST


def boot_id(path: Path = _BOOT) -> str:
    """Tell which start of the device it is."""
    return path.read_text(encoding="ascii").strip()


def read_preflight(path: Path) -> Preflight | None:
    """Read the file; None when there has been none, or when it says nothing that this version understands."""
    try:
        return Preflight.model_validate_json(path.read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def run(
    path: Path,
    look: Callable[[], Flight],
    boot: str,
    clock: Callable[[], float] = time.monotonic,
    wall: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Preflight:
    """Run it, and keep in a file that it runs, and what came of it.

    Args:
        look: takes up to a minute.

    Raises:
        OSError: the file cannot be written.
    """
    state = Preflight(boot=boot, began=clock(), began_at=wall())
    _write(path, state)
    try:
        found = look()
        told = {"outcome": found.outcome, "steps": found.looked, "unknown": found.unknown}
    except (Refusal, *EXPECTED) as error:
        told = {"error": str(error)}
    state = state.model_copy(update={**told, "finished_at": wall()})
    _write(path, state)
    return state


def _write(path: Path, state: Preflight) -> None:
    write_atomically(path, state.model_dump_json(indent=1).encode() + b"\n", 0o600)


def main() -> int:
    """Run as systemd's service; what it has found is no failure of the service."""
    store = Store()
    path = store.data / RESULT
    discard_partials(path.parent)
    run(path, lambda: fly(store), boot_id())
    return 0


if __name__ == "__main__":
    sys.exit(main())
