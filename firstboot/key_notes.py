"""What tells two keys of one kind from each other: a note about a slot, for whoever has to revoke one of them.

It lies on the encrypted disk: the head of the disk is open to any thief, and says no more of a key than what it is for.
A note goes by the random salt of its slot, so that it is never taken for the one of another key in the same place.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from firstboot.clock import SYNCHRONIZED
from firstboot.luks import Luks
from firstboot.partitions import DiskError
from firstboot.relay_key import VOLUME
from firstboot.usb_key import StickError, Sticks
from stack.durable import write_atomically
from stack.owners import SystemOwners
from stack.stack import Stack
from stack.volumes import make_volumes

_FILE = "keys.json"


class KeyNote(BaseModel):
    """A note.

    Args:
        added: the day (UTC, ISO 8601); empty when the device did not know it.
        stick: what the stick with the key calls itself.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    added: str = ""
    stick: str = ""

    def __str__(self) -> str:
        return ", ".join(filter(None, [self.stick, self.added and f"added on {self.added}"]))


_NOTES = TypeAdapter(dict[str, KeyNote])


def today(synchronized: Path = SYNCHRONIZED) -> str:
    """Give the day (UTC); nothing while no time server has said it."""
    return time.strftime("%Y-%m-%d", time.gmtime()) if synchronized.exists() else ""


def read_notes(luks: Luks, data: Path) -> Mapping[int, KeyNote]:
    """Give the notes, by slot; a file that is damaged has none.

    Args:
        data: folder where the disk is mounted.

    Raises:
        LuksError: the header cannot be read.
    """
    kept = _read(data)
    return {slot: kept[salt] for slot, salt in luks.salts().items() if salt in kept}


def note_key(luks: Luks, slot: int, data: Path, day: str, sticks: Sticks | None = None) -> None:
    """Note a key that was added; those that are gone are forgotten. A full disk has the key all the same, and no note.

    Args:
        data: folder where the disk is mounted.
        day: see `KeyNote`.
        sticks: when the key is on the one that is plugged in.

    Raises:
        LuksError: the header cannot be read.
    """
    salts = luks.salts()
    kept = {salt: note for salt, note in _read(data).items() if salt in salts.values()}
    kept[salts[slot]] = KeyNote(added=day, stick=_model(sticks) if sticks else "")
    with suppress(OSError, subprocess.CalledProcessError):
        if not (data / VOLUME).exists():  # at the first start
            make_volumes([one for one in Stack.load().volumes if one.name == VOLUME], data, SystemOwners())
        content = {salt: note.model_dump() for salt, note in kept.items()}
        write_atomically(data / VOLUME / _FILE, json.dumps(content).encode(), 0o600)


def _read(data: Path) -> dict[str, KeyNote]:
    try:
        return _NOTES.validate_json((data / VOLUME / _FILE).read_bytes())
    except (OSError, ValidationError):
        return {}


def _model(sticks: Sticks) -> str:
    try:
        return sticks.model(sticks.only())
    except (StickError, DiskError, OSError, subprocess.CalledProcessError):  # pulled out a moment ago
        return ""
