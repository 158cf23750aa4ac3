"""What darkpipe-drain tells others: a small file in /run, without addresses and without secrets."""

from __future__ import annotations

import time
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from model.control import QueueStatus

STATE = Path("/run/darkpipe-drain/state.json")

SILENT = 120.0
"""Seconds after which whoever should write the file has stopped doing so; it does so every few seconds."""


class Doing(StrEnum):
    """What the drain does."""

    UNPAIRED = "unpaired"
    """There is no relay that it could ask."""

    AWAY = "away"
    """The tunnel is down, or home takes no mail."""

    DRAINING = "draining"
    EMPTY = "empty"
    """Nothing waits, or only what was put off."""

    PAUSED = "paused"
    """Something is wrong that passes, or that somebody has to see to."""

    FENCED = "fenced"
    """Another home has taken this one's place at the relay."""


@dataclass
class Progress:
    """What one round has done.

    Args:
        items: handed over or put into quarantine, for good.
        octets: of their messages.
    """

    items: int = 0
    octets: int = 0
    put_off: int = 0


class Drained(BaseModel):
    """The file.

    Args:
        written: seconds of CLOCK_MONOTONIC, the same for all processes until the next start.
        since: when that began, likewise.
        trouble: what is wrong, with what to do; empty for nothing.
        items, octets: what was drained since then.
        put_off: items that wait for another try.
        lost: items that the relay had listed and has no more, since the service started.
        relay: what the relay says of its queue, as JSON of model.control.QueueStatus; None when it was not asked.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    written: float
    doing: Doing
    since: float
    trouble: str = ""
    items: int = 0
    octets: int = 0
    put_off: int = 0
    lost: int = 0
    relay: QueueStatus | None = None


def note(state: Drained, path: Path = STATE) -> None:
    """Replace the file; a reader sees the old one or the new one."""
    partial = path.with_suffix(".new")
    partial.write_text(state.model_dump_json() + "\n")
    partial.chmod(0o644)
    partial.replace(path)


def read_drained(path: Path = STATE, now: float | None = None) -> Drained | None:
    """Read the file; None when there is none, or an old one."""
    try:
        found = Drained.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None
    return found if (time.monotonic() if now is None else now) - found.written <= SILENT else None


def progress_line(items: int, octets: int, seconds: float, left: QueueStatus | None) -> str:
    """Say how far a drain has come, and how fast it is.

    Args:
        seconds: since it began.
        left: what the relay has still.
    """
    spent = max(seconds, 0.001)
    rate = f"{items / spent:.1f} messages/s, {octets / spent / 1e6:.1f} MB/s"
    rest = f"; {left.count} messages, {left.octets / 1e6:.1f} MB remain" if left else ""
    return f"drained {items} messages, {octets / 1e6:.1f} MB ({rate}){rest}"
