"""What darkpipe-tunnel tells others of the tunnel: a small file in /run, without secrets."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from home.readings import Reading

STATE = Path("/run/darkpipe-tunnel/state.json")

SILENT = 60.0
"""Seconds after which whoever should write the file has stopped doing so; it does so every few seconds."""


class Noted(BaseModel):
    """The file. Moments are seconds of CLOCK_MONOTONIC, the same for all processes until the next start.

    Args:
        relay_key: the relay's public key, by which one sees which keys are in use.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    written: float
    relay: str | None
    up: bool
    since: float
    heard: float | None = None
    endpoint: str | None = None
    error: str | None = None
    relay_key: str | None = None


class Tunnel(Reading):
    """The tunnel to the relay.

    Args:
        relay: the relay's name or address.
        handshake_seconds: age of the latest handshake; None when there was none since the tunnel was made.
        endpoint: address and port of the relay that packets go to; None when none is known.
        since: when it came up or went down.
        error: why there is no tunnel, if that is known.
    """

    relay: str | None
    up: bool
    handshake_seconds: int | None
    endpoint: str | None
    since: datetime
    error: str | None


def note(state: Noted, path: Path = STATE) -> None:
    """Replace the file; a reader sees the old one or the new one."""
    partial = path.with_suffix(".new")
    partial.write_text(state.model_dump_json() + "\n")
    partial.chmod(0o644)
    partial.replace(path)


def is_up(relay_key: str, path: Path = STATE, now: float | None = None) -> bool:
    """Tell whether the tunnel is up, with a relay that has this public key."""
    try:
        noted = Noted.model_validate_json(path.read_bytes())
    except (FileNotFoundError, ValidationError):
        return False
    now = time.monotonic() if now is None else now
    return noted.up and noted.relay_key == relay_key and now - noted.written <= SILENT


def read_tunnel(path: Path = STATE) -> Tunnel | None:
    """Read the state of the tunnel; None while no relay is known."""
    try:
        noted = Noted.model_validate_json(path.read_bytes())
    except (FileNotFoundError, ValidationError):
        return None  # the service does not run, which its unit's state shows
    return shown(noted, time.monotonic(), datetime.now(UTC))


def shown(noted: Noted, now: float, clock: datetime) -> Tunnel | None:
    """Turn the file's moments into what people and programs read.

    Args:
        now: seconds of CLOCK_MONOTONIC.
        clock: the same moment by the clock on the wall.
    """
    if noted.relay is None and noted.error is None:
        return None
    silent = now - noted.written > SILENT
    return Tunnel(
        relay=noted.relay,
        up=noted.up and not silent,
        handshake_seconds=None if noted.heard is None else int(now - noted.heard),
        endpoint=noted.endpoint,
        since=clock - timedelta(seconds=int(now - noted.since)),
        error=f"darkpipe-tunnel was last heard of {int(now - noted.written)} s ago" if silent else noted.error,
    )
