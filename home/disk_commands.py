"""`darkpipe disk` and `darkpipe recovery`: the encryption of the data disk."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from firstboot.data_place import Record, read_record
from firstboot.luks import Luks, LuksError, Use, mapped_partition
from firstboot.partitions import DiskError
from firstboot.recovery import RecoveryError, RecoverySecret, parse_secret
from firstboot.recovery_keys import is_recovery_secret_of
from firstboot.unlock_dialog import Dialog, Tty
from firstboot.unlock_socket import UnlockClient
from firstboot.unlocking import Refused
from firstboot.vault import PassphraseError, check_passphrase, encode_passphrase, this_machine

_STATE, _DATA = Path("/state"), Path("/data")
_WORDS = {Use.PASSPHRASE: "passphrase", Use.RECOVERY: "recovery secret", Use.USB_KEY: "key on a USB stick"}


class _DiskRefused(click.ClickException):
    exit_code = 1


@contextmanager
def _in_words() -> Iterator[None]:
    try:
        yield
    except (LuksError, DiskError, Refused, RecoveryError, PassphraseError, OSError) as error:
        text = str(error)
        raise _DiskRefused(f"{text[:1].upper()}{text[1:].rstrip('.')}.") from error


@click.group()
def disk() -> None:
    """The disk for the mail: unlock it, and change what unlocks it."""


@disk.command("unlock")
def unlock() -> None:
    """Unlock the disk, or at the first start make it; asks for what it needs.

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
      darkpipe disk status
    """
    with _in_words():
        record = _record()
        if not record.encrypted:
            found: dict[str, object] = {"encrypted": False, "place": str(record.place), "slots": []}
        else:
            luks = Luks(mapped_partition())
            slots = [{"slot": slot.number, "use": slot.use and str(slot.use)} for slot in luks.slots()]
            found = {"encrypted": True, "place": str(record.place), "partition": str(luks.partition), "slots": slots}
    if as_json:
        click.echo(json.dumps(found, indent=1))
        return
    click.echo(f"The mail lies on {'the disk of the system' if record.place == 'system' else 'another disk'}.")
    if not record.encrypted:
        click.echo("It is NOT encrypted.")
        return
    click.echo(f"It is encrypted ({luks.partition}). It is unlocked by:")
    for slot in luks.slots():
        click.echo(f"  slot {slot.number}: {_WORDS[slot.use] if slot.use else 'something that DarkPipe has not made'}")


@disk.command("add-key")
def add_key() -> None:
    """Add a passphrase, for instance for another person; asks for it, and for one that works already.

    \b
    Examples:
      darkpipe disk add-key
    """
    with _in_words():
        luks = _luks()
        known = _known_key(luks, _ask("Passphrase or recovery secret that works:"))
        new = check_passphrase(_ask("New passphrase:"))
        if luks.fits(new, Use.PASSPHRASE):
            raise Refused("this passphrase works already")
        if encode_passphrase(_ask("Once more:")) != new:
            raise Refused("these are two different passphrases; nothing was changed")
        slot = luks.add(known, new, Use.PASSPHRASE, this_machine().costs)
    click.echo(f"The passphrase unlocks the disk: slot {slot.number}.")


@disk.command("revoke")
@click.argument("slot", type=int)
def revoke(slot: int) -> None:
    """Destroy a key: SLOT as `darkpipe disk status` shows it. One other passphrase has to remain, and is asked for.

    A copy of the header that was made before still has it.

    \b
    Examples:
      darkpipe disk revoke 2
    """
    with _in_words():
        luks = _luks()
        slots = {found.number: found for found in luks.slots()}
        if slot not in slots:
            raise Refused(f"there is no slot {slot}; found: {', '.join(map(str, slots))}")
        if slots[slot].use is Use.RECOVERY:
            raise Refused("the recovery secret stays: without it nothing opens the disk when a passphrase is forgotten")
        key = encode_passphrase(_ask("A passphrase that remains:"))
        if not any(luks.fits_slot(key, number) for number, found in slots.items() if _remains(found.use, number, slot)):
            raise Refused("this opens no slot that would remain; nothing was changed")
        luks.remove(slot)
    click.echo(f"Slot {slot} is destroyed.")


@disk.command("header-backup")
@click.argument("file", type=click.Path(path_type=Path))
def header_backup(file: Path) -> None:
    """Copy the head of the encrypted disk to FILE, which must not exist; without a head nobody can open a disk.

    The copy opens with the keys of today, even after one was revoked: keep it where you keep the recovery secret.

    \b
    Examples:
      darkpipe disk header-backup /run/darkpipe-data.header
    """
    with _in_words():
        if file.exists():
            raise Refused(f"{file} is there already; choose another name")
        _luks().backup(file)
    click.echo(f"The head of the disk is copied to {file}.")


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


def _remains(use: Use | None, number: int, revoked: int) -> bool:
    return number != revoked and use is not Use.RECOVERY


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
    if not _record().encrypted:
        raise Refused("the disk for the mail is not encrypted")
    return Luks(mapped_partition())


def _ask(question: str) -> str:
    answer = Tty().ask(question, hidden=True, until=lambda: False)
    if answer is None:
        raise Refused("nothing was typed; nothing was changed")
    return answer
