"""What darkpipe-pair tells others: a small file in /run, without secrets; and what the owner wishes, in a folder."""

from __future__ import annotations

import time
from enum import StrEnum
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

STATE = Path("/run/darkpipe-pair/state.json")

SILENT = 150.0
"""Seconds after which whoever should write the file has stopped doing so: a request to the relay may take 100."""


class Stage(StrEnum):
    """How far home and relay are."""

    NO_RELAY = "no relay"
    CALLING = "calling"
    """The tunnel with the bootstrap's keys is not up."""

    INSTALLING = "installing"
    """The relay gets its software."""

    OFFERING = "offering"
    CONFIRMING = "confirming"
    PAIRED = "paired"
    CHANGING = "changing"
    """Paired, and changing to new keys."""

    SILENT = "silent"
    """Paired, and the tunnel is not up."""

    REBUILT = "rebuilt"
    """Another relay answers to the bootstrap's keys, and none to the paired ones."""

    BROKEN = "broken"
    """Files on this device cannot be used."""


class Wish(StrEnum):
    """What the owner may ask for; a file with this name in the folder of wishes."""

    AGAIN = "again"
    RESTORED = "restored"
    ROTATE = "rotate"


WISHES = "wishes"
"""The folder of wishes, in home's folder for pairing."""

REPLACEMENT = "replacement.json"
"""In the folder of wishes: home's half of the bootstrap of another relay. A secret."""


class Told(BaseModel):
    """The file.

    Args:
        written: seconds of CLOCK_MONOTONIC, the same for all processes until the next start.
        relay: name or address of the relay.
        trouble: what is wrong, with what to do; empty for nothing.
        relay_id: the relay's id, once paired.
        home_epoch: of this home.
        changed: when the keys came that hold, seconds since 1970; 0 before pairing.
        software: id of the bundle that the relay runs, as it was last heard.
        recipients, settings: versions that the relay has, as it was last heard.
        unlock: digest of the keys by which the relay helps to unlock the disk, as it was last heard; empty for none.
        wish: what became of the owner's latest wish; empty for nothing.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    written: float
    stage: Stage
    relay: str = ""
    trouble: str = ""
    relay_id: str = ""
    home_epoch: int = 0
    changed: int = 0
    software: str = ""
    recipients: int = 0
    settings: int = 0
    wish: str = ""
    unlock: str = ""


def tell(told: Told, path: Path = STATE) -> None:
    """Replace the file; a reader sees the old one or the new one."""
    partial = path.with_suffix(".new")
    partial.write_text(told.model_dump_json() + "\n", encoding="utf-8")
    partial.chmod(0o644)
    partial.replace(path)


def read_told(path: Path = STATE, now: float | None = None) -> Told | None:
    """Read the file; None when the service does not run."""
    try:
        told = Told.model_validate_json(path.read_bytes())
    except (FileNotFoundError, ValidationError):
        return None
    now = time.monotonic() if now is None else now
    return told if now - told.written <= SILENT or told.stage is Stage.INSTALLING else None
