"""`darkpipe disk` and `darkpipe recovery`: the encryption of the data disk."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import click

from firstboot.data_place import Record, read_record
from firstboot.key_notes import note_key, today
from firstboot.luks import MAPPED, Luks, LuksError, Slot, Use, mapped_partition
from firstboot.partitions import DiskError
from firstboot.recovery import RecoveryError, RecoverySecret, parse_secret
from firstboot.recovery_keys import is_recovery_secret_of
from firstboot.relay_key import WaitingKeyError
from firstboot.tpm import TpmError, open_tpm
from firstboot.tpm_unlock import forget_tpm, want_tpm, why_unfit
from firstboot.unlock_dialog import Dialog, GoneError, Tty
from firstboot.unlock_socket import UnlockClient
from firstboot.unlocking import Refused
from firstboot.usb_key import StickError, Sticks, add_stick
from firstboot.vault import PassphraseError, check_passphrase, encode_passphrase, this_machine
from home.boot_stage import BootStageError
from home.disk_head import copy_head
from home.disk_lock import LOCK, only_command
from home.disk_status import Policy, look, policy_of
from home.relay_policy import Places, add_relay, finish, forget_relay, helps, is_left, paired
from home.tunnel_link import LinkError

_STATE, _DATA, _MAPPED, _LOCK = Path("/state"), Path("/data"), MAPPED, LOCK
_THAT_WORKS = "Passphrase or recovery secret that works:"
_BESIDES = frozenset({Use.USB_KEY, Use.RELAY, Use.TPM2})
"""What unlocks the disk without anybody who types."""
_FROM_THE_FIRST = "a disk is encrypted, or is not, from its first start on"

_OTHERS = (StickError, BootStageError, LinkError, WaitingKeyError, TpmError, OSError)

_NONE = "none"
"""Of an unencrypted disk."""

_user = os.geteuid


class _DiskRefused(click.ClickException):
    exit_code = 1


@contextmanager
def _in_words() -> Iterator[None]:
    if _user() != 0:
        words = click.get_current_context().command_path.split()[1:]
        raise _DiskRefused(f"This is for root: sudo darkpipe {' '.join(words)}")
    try:
        yield
    except subprocess.CalledProcessError as error:
        raise _DiskRefused(f"{error.cmd[0]} failed: {error.output.strip()}") from error
    except (LuksError, DiskError, Refused, RecoveryError, PassphraseError, *_OTHERS) as error:
        text = str(error)
        raise _DiskRefused(f"{text[:1].upper()}{text[1:].rstrip('.')}.") from error


@contextmanager
def _change() -> Iterator[Luks]:
    """Give the disk to a command that changes its keys, to one at a time."""
    with _in_words():
        luks = _luks()
        with only_command(_LOCK):
            yield luks


@click.group()
def disk() -> None:
    """The disk for the mail: unlock it, and change what unlocks it."""


@disk.command("unlock")
def unlock() -> None:
    """Unlock the disk, or at the first start make it; asks for what it needs.

    A device without a site shows the way to the page that asks for one.

    \b
    Examples:
      sudo darkpipe disk unlock
    """
    with _in_words():
        UnlockClient().see()
        sys.exit(0 if Dialog(UnlockClient(), Tty(), "leave").run() else 1)


@disk.command("status")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
def status(as_json: bool) -> None:
    """Tell where the mail lies, whether encrypted, and what unlocks it.

    \b
    Examples:
      sudo darkpipe disk status
    """
    with _in_words():
        record = _record()
        found, lines = _seen(record)
    if as_json:
        click.echo(json.dumps({"place": str(record.place), **found}, indent=1))
        return
    click.echo(f"The mail lies on {'the disk of the system' if record.place == 'system' else 'another disk'}.")
    for line in lines:
        click.echo(line)


def _seen(record: Record) -> tuple[dict[str, object], list[str]]:
    """Give what is to be told of the disk: for programs, and in words."""
    if not record.encrypted:
        return {"encrypted": False, "policy": "none", "slots": []}, ["It is NOT encrypted."]
    if record.making or not _MAPPED.exists():
        words = "going to be encrypted, and not made yet" if record.making else "encrypted, and locked"
        return {"encrypted": True, "locked": True}, [f"It is {words}: sudo darkpipe disk unlock"]
    return look(Luks(mapped_partition()), record, _places(), _DATA, Sticks(), _LOCK)


@disk.command("add-key")
@click.option("--usb-stick", is_flag=True, help="Make a key on the USB stick that is plugged in, not a passphrase.")
def add_key(usb_stick: bool) -> None:
    """Add a passphrase, for instance for another person, or a key on a USB stick; asks for a passphrase that works.

    \b
    Examples:
      darkpipe disk add-key
      darkpipe disk add-key --usb-stick
    """
    with _change() as luks:
        if usb_stick:
            _add_stick(luks)
            return
        known = _known_key(luks, _ask(_THAT_WORKS))
        new = check_passphrase(_ask("New passphrase:"))
        cut = luks.name_unnamed(new, Use.PASSPHRASE)
        if not cut and luks.fits(new, Use.PASSPHRASE):
            raise Refused("this passphrase works already")
        if not cut and encode_passphrase(_ask("Once more:")) != new:
            raise Refused("these are two different passphrases; nothing was changed")
        slot = cut or luks.add(known, new, Use.PASSPHRASE, this_machine().costs)
        note_key(luks, slot.number, _DATA, today())
    click.echo(f"The passphrase unlocks the disk: slot {slot.number}.")


@disk.command("change-policy")
@click.argument("policy", metavar="|".join(Policy), type=click.Choice([*map(str, Policy), _NONE]))
def change_policy(policy: str) -> None:
    """Change what unlocks the disk at a start: usb-key, relay, tpm2, or passphrase for nothing else.

    The passphrase still works, for the day on which the stick is lost or the relay away. Going back to passphrase
    destroys the keys of all sticks, what the relay helps to have, and the TPM's key. Another policy besides does not.

    \b
    Examples:
      darkpipe disk change-policy usb-key
      darkpipe disk change-policy relay
      darkpipe disk change-policy tpm2
      darkpipe disk change-policy passphrase
    """
    with _in_words():
        if policy == _NONE:
            raise Refused(f"`{_NONE}` is no policy to change to: {_FROM_THE_FIRST}")
    with _change() as luks:
        if policy == policy_of(luks) and not _is_half_done(luks, policy):
            hint = "; another stick: darkpipe disk add-key --usb-stick" if policy == Policy.USB_KEY else ""
            raise Refused(f"this is the policy already{hint}")
        if policy == Policy.USB_KEY:
            _add_stick(luks)
            return
        if policy == Policy.RELAY:
            _add_relay(luks)
            return
        if policy == Policy.TPM2:
            _want_tpm(luks)
            return
        slots = luks.slots()
        half_made = luks.half_made()
        others = {slot.number: slot.use for slot in slots if slot.use in _BESIDES or slot.number in half_made}
        _ask_for_what_remains(luks, slots, list(others))
        forget_tpm(luks)
        # First the help, then its slot: cut off in between, the slot still says that there is something to end.
        forget_relay(_places())
        for number, use in others.items():
            if use is not Use.TPM2:
                luks.remove(number)
    click.echo("From now on passphrase and recovery secret unlock the disk, and nothing else does.")


def _add_stick(luks: Luks) -> None:
    sticks = Sticks()
    sticks.only()  # before anybody types
    known = _known_key(luks, _ask(_THAT_WORKS))
    slot = add_stick(luks, _record().uuid, known, sticks)
    note_key(luks, slot.number, _DATA, today(), sticks)
    click.echo(f"The stick unlocks the disk: slot {slot.number}. Without it the passphrase does.")


def _places() -> Places:
    return Places.below(_DATA, _STATE)


def _is_half_done(luks: Luks, policy: str) -> bool:
    """Tell whether a policy that the disk has wants to be made whole, or to be rid of what a cut has left."""
    if policy == Policy.RELAY:
        several = sum(slot.use is Use.RELAY for slot in luks.slots()) > 1
        return several or not helps(_record().uuid, _places())
    return policy == Policy.PASSPHRASE and (bool(luks.half_made()) or is_left(_places()))


def _add_relay(luks: Luks) -> None:
    places = _places()
    paired(places.pairing)  # before anybody types
    if finish(click.echo, places):
        click.echo("The relay helps to unlock the disk. While it is away the passphrase does.")
        return
    # Of a device that was lost, or that has lost its `state`: nothing decrypts their keys here.
    old = [slot.number for slot in luks.slots() if slot.use is Use.RELAY]
    known = _known_key(luks, _ask(_THAT_WORKS))
    slot = add_relay(luks, _record().uuid, known, click.echo, places)
    for number in old:
        luks.remove(number)
    click.echo(f"The relay helps to unlock the disk: slot {slot.number}. While it is away the passphrase does.")


def _want_tpm(luks: Luks) -> None:
    if unfit := why_unfit(open_tpm()):
        raise Refused(f"{unfit}; nothing was changed")
    want_tpm(luks, _known_key(luks, _ask(_THAT_WORKS)))
    click.echo("At the next start somebody types the passphrase once more; then the TPM is given a key of its own.")


@disk.command("revoke")
@click.argument("slot", type=int)
def revoke(slot: int) -> None:
    """Destroy a key: SLOT as `darkpipe disk status` shows it. One other passphrase has to remain, and is asked for.

    A copy of the header that was made before still has it.

    \b
    Examples:
      darkpipe disk revoke 2
    """
    with _change() as luks:
        slots = {found.number: found for found in luks.slots()}
        if slot not in slots:
            raise Refused(f"there is no slot {slot}; found: {', '.join(map(str, slots))}")
        if slots[slot].use is Use.RECOVERY:
            raise Refused("the recovery secret stays: without it nothing opens the disk when a passphrase is forgotten")
        _ask_for_what_remains(luks, tuple(slots.values()), [slot])
        if slots[slot].use is Use.RELAY:
            forget_relay(_places())
        luks.remove(slot)
    click.echo(f"Slot {slot} is destroyed.")


@disk.command("header-backup")
@click.argument("file", type=click.Path(path_type=Path))
def header_backup(file: Path) -> None:
    """Copy the head of the encrypted disk to FILE, which must not exist; without a head nobody can open a disk.

    The copy opens with the keys of today, even after one was revoked: keep it where you keep the recovery secret, and
    not on the device. To put it back, on any computer with Linux: cryptsetup luksHeaderRestore.

    \b
    Examples:
      sudo darkpipe disk header-backup ~/darkpipe-data.header
    """
    with _in_words():
        copy_head(_luks(), file, data=_DATA, state=_STATE)
    click.echo(f"The head of the disk is copied to {file}. Take it away from the device.")


@click.group()
def recovery() -> None:
    """The recovery secret, which was shown when the disk was made."""


@recovery.command("check")
def check() -> None:
    """Tell whether the recovery secret that you have written down is the right one; asks for it.

    \b
    Examples:
      darkpipe recovery check
    """
    with _in_words():
        luks = _luks()
        secret = parse_secret(_ask("Recovery secret:"))
        _check(luks, secret)
    click.echo("This is the recovery secret of this disk.")


def _check(luks: Luks, secret: RecoverySecret) -> None:
    if not luks.fits(secret.disk_key, Use.RECOVERY):
        raise Refused("it is a recovery secret, but another disk's")
    if not is_recovery_secret_of(_DATA, secret):
        raise Refused("it opens the disk, but the key for what waits on the relay is another one's")


def _ask_for_what_remains(luks: Luks, slots: Sequence[Slot], revoked: Sequence[int]) -> None:
    """Have somebody prove that a passphrase opens the disk without some slots.

    Raises:
        Refused: none does.
    """
    key = encode_passphrase(_ask("A passphrase that remains:"))
    # A stick or the recovery secret may be lost; a slot without a name is one that somebody has made by hand.
    remain = [slot.number for slot in slots if slot.number not in revoked and slot.use in {Use.PASSPHRASE, None}]
    if not any(luks.fits_slot(key, number) for number in remain):
        raise Refused(
            "this opens no slot that would remain; nothing was changed. If no passphrase is known, the recovery secret "
            "adds a new one: sudo darkpipe disk add-key"
        )


def _known_key(luks: Luks, typed: str) -> bytes:
    try:
        key, use = parse_secret(typed).disk_key, Use.RECOVERY
    except RecoveryError:
        key, use = encode_passphrase(typed), Use.PASSPHRASE
    if not luks.fits(key, use):
        raise Refused("this is neither the passphrase nor the recovery secret; nothing was changed")
    return key


def _record() -> Record:
    record = read_record(_STATE)
    if record is None:
        raise Refused("it is not decided yet where the mail lies: the device has no site")
    return record


def _luks() -> Luks:
    record = _record()
    if not record.encrypted:
        raise Refused(f"the disk for the mail is not encrypted, and will not be: {_FROM_THE_FIRST}")
    if record.making:
        raise Refused("the disk for the mail is not made yet: sudo darkpipe disk unlock")
    return Luks(mapped_partition())


def _ask(question: str) -> str:
    try:
        return Tty().ask(question, hidden=True, until=lambda: False) or ""
    except GoneError:
        raise Refused("nothing was typed; nothing was changed") from None
