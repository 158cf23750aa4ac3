"""A new disk that the relay is to unlock: its slot is made with the disk, and the key waits on the disk itself.

Nobody has paired with a relay yet. The key lies where only who has the disk open finds it, until home has encrypted it
with the relay's help (home/relay_policy.py).
"""

from __future__ import annotations

import secrets
from pathlib import Path
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from firstboot.luks import Luks, Slot, Use
from stack.durable import sync_folder, write_atomically
from stack.owners import SystemOwners
from stack.stack import Stack
from stack.volumes import make_volumes

VOLUME = "unlock"
_FILE = "waiting.json"
KEY_BYTES = 32


class WaitingKeyError(ValueError):
    """The file is damaged; the text says which."""


class WaitingKey(BaseModel):
    """The file.

    Args:
        disk: the container's identifier.
        key: of its slot for the relay, as hexadecimal digits.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    disk: UUID
    key: str = Field(repr=False, pattern=f"^[0-9a-f]{{{2 * KEY_BYTES}}}$")

    @property
    def octets(self) -> bytes:
        """The key."""
        return bytes.fromhex(self.key)


def give_relay(luks: Luks, disk: UUID, known: bytes, data: Path) -> Slot:
    """Make a key for the relay's help, keep it on the new disk, and let it unlock the disk.

    Args:
        disk: the container's identifier.
        known: a key that opens it.
        data: folder where `data` is mounted.

    Raises:
        LuksError: the key cannot be added.
        OSError: it cannot be kept.
    """
    made = WaitingKey(disk=disk, key=secrets.token_hex(KEY_BYTES))
    make_volumes([one for one in Stack.load().volumes if one.name == VOLUME], data, SystemOwners())
    write_atomically(data / VOLUME / _FILE, made.model_dump_json().encode(), 0o600)
    return luks.add(known, made.octets, Use.RELAY, None)


def read_waiting(folder: Path) -> WaitingKey | None:
    """Read the key that waits; None when none does.

    Args:
        folder: the volume.

    Raises:
        WaitingKeyError: the file is damaged.
    """
    path = folder / _FILE
    try:
        return WaitingKey.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError:
        raise WaitingKeyError(f"{path} is damaged; `darkpipe disk change-policy passphrase` ends it") from None


def waits(folder: Path) -> bool:
    """Tell whether a key waits, be it damaged."""
    return (folder / _FILE).exists()


def forget_waiting(folder: Path) -> None:
    """Remove it, for good: a cut must not bring back what was ended.

    Raises:
        OSError: the disk has failed.
    """
    if waits(folder):
        (folder / _FILE).unlink()
        sync_folder(folder)
