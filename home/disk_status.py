"""What `darkpipe disk status` tells: what unlocks the encrypted disk, and which key is which."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path

from firstboot.data_place import Record
from firstboot.key_notes import KeyNote, read_notes
from firstboot.luks import Luks, LuksError, Slot, Use
from firstboot.partitions import DiskError
from firstboot.relay_key import waits
from firstboot.tpm_unlock import wants_tpm
from firstboot.unlocking import Refused
from firstboot.usb_key import Sticks
from home.boot_stage import BootStageError
from home.disk_lock import only_command
from home.relay_policy import Places, helps, paired

_WORDS = {
    Use.PASSPHRASE: "passphrase",
    Use.RECOVERY: "recovery secret",
    Use.USB_KEY: "key on a USB stick",
    Use.RELAY: "key that the relay helps to have",
    Use.TPM2: "key that this device's TPM gives out",
}
_HALF_MADE = "what a command that was cut off has left; give it again, or revoke this"
_NOT_OURS = "something that DarkPipe has not made, or a passphrase whose command was cut off"


class Policy(StrEnum):
    """What unlocks the disk at a start; the passphrase and the recovery secret always do."""

    PASSPHRASE = "passphrase"
    USB_KEY = "usb-key"
    RELAY = "relay"
    TPM2 = "tpm2"


def policy_of(luks: Luks) -> Policy:
    """Give the policy of a disk, the last one that was chosen besides the passphrase as far as its head tells.

    Raises:
        LuksError: the header cannot be read.
    """
    uses = {slot.use for slot in luks.slots()}
    if wants_tpm(luks):
        return Policy.TPM2
    if Use.RELAY in uses:
        return Policy.RELAY
    return Policy.USB_KEY if Use.USB_KEY in uses else Policy.PASSPHRASE


def look(
    luks: Luks, record: Record, places: Places, data: Path, sticks: Sticks, lock: Path
) -> tuple[dict[str, object], list[str]]:
    """Give what is to be told of a disk that is unlocked: for programs, and in words.

    Args:
        data: folder where it is mounted.
        sticks: those that are plugged in are read, if the disk has keys on such.
        lock: with which commands keep each other away: one of them may be writing to a stick.

    Raises:
        LuksError: the header cannot be read.
    """
    policy, slots, half_made = policy_of(luks), luks.slots(), luks.half_made()
    notes, here = read_notes(luks, data), _plugged_in(luks, slots, record, sticks, lock)
    help_here, trouble = _help(record, places)
    found: dict[str, object] = {
        "encrypted": True,
        "locked": False,
        "policy": policy,
        "partition": str(luks.partition),
        "slots": [_row(slot, notes, here) for slot in slots],
        "relay_helps": help_here,
    }
    lines = [f"It is encrypted ({luks.partition}; policy {policy}). It is unlocked by:"]
    for slot in slots:
        nameless = _HALF_MADE if slot.number in half_made else _NOT_OURS
        known = [str(notes.get(slot.number, "")), "plugged in now" if slot.number in here else ""]
        note = "; ".join(filter(None, known))
        lines.append(
            f"  slot {slot.number}: {_WORDS[slot.use] if slot.use else nameless}{f' ({note})' if note else ''}"
        )
    uses = {slot.use for slot in slots}
    if Use.RELAY in uses and trouble:
        lines.append(trouble)
    if policy is Policy.TPM2 and Use.TPM2 not in uses:
        lines.append("The TPM has no key yet: it is given one when somebody types the passphrase at a start.")
    return found, lines


def _row(slot: Slot, notes: Mapping[int, KeyNote], here: frozenset[int]) -> dict[str, object]:
    row: dict[str, object] = {"slot": slot.number, "use": slot.use and str(slot.use)}
    if note := notes.get(slot.number):
        row |= {name: text for name, text in note.model_dump().items() if text}
    return row | ({"plugged_in": True} if slot.number in here else {})


def _plugged_in(luks: Luks, slots: Sequence[Slot], record: Record, sticks: Sticks, lock: Path) -> frozenset[int]:
    """Tell which slots are those of the sticks that are plugged in."""
    numbers = [slot.number for slot in slots if slot.use is Use.USB_KEY]
    if not numbers:
        return frozenset()
    try:
        with only_command(lock):
            keys = list(sticks.keys(record.uuid))
        return frozenset(number for key in keys for number in numbers if luks.fits_slot(key, number))
    except (Refused, LuksError, DiskError, OSError, subprocess.CalledProcessError):
        return frozenset()  # it is a help, and no more


def _help(record: Record, places: Places) -> tuple[bool, str]:
    """Tell whether the device has what the relay's help takes, and in words why that may not do it."""
    here = False
    try:
        if here := helps(record.uuid, places):
            paired(places.pairing)
            return True, ""
    except BootStageError as error:
        return here, f"The relay may NOT help at the next start: {error}"
    if waits(places.waiting):
        return False, "The relay does NOT help yet. It will once home is paired with it: darkpipe pair"
    return False, (
        "The relay does NOT help: what this takes on the device's own disk is not there. Once home is paired: "
        "darkpipe disk change-policy relay"
    )
