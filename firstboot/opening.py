"""An encrypted data disk is made or unlocked: what a person types, a USB stick and the TPM come together here."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from firstboot.console import announce
from firstboot.data_place import Place, Record, keep_record
from firstboot.door import Door
from firstboot.luks import MAPPED, Luks, LuksError, Use, close
from firstboot.luks_head import read_luks
from firstboot.other_disks import known_devices
from firstboot.partitions import DiskError, label, run
from firstboot.recovery import RecoverySecret
from firstboot.recovery_keys import keep_recovery_keys
from firstboot.relay_key import give_relay
from firstboot.seed import SeedError
from firstboot.stick_unlock import beside, give_stick, watch_sticks
from firstboot.superblock import read_btrfs
from firstboot.tpm import TpmError
from firstboot.tpm_unlock import NOTHING_SEALED, TpmUnlock, tpm_unlock, want_tpm, wants_tpm
from firstboot.unlock_socket import leave_word
from firstboot.unlocking import Session, Stage
from firstboot.usb_key import Sticks
from firstboot.vault import Vault, this_machine
from model.document import SEED_NAME

_LOOK_AGAIN = 1.0
"""Seconds between two looks at whether a disk that is not used is still there."""


_NEW = 2**20
"""Bytes that a btrfs which nobody has written to holds at most."""

_EXCHANGED = (
    "the disk for the mail, {partition}, was unplugged or exchanged while the device waited: plug in the right one, "
    "and start the device again"
)


@dataclass(frozen=True)
class Places:
    """Where things lie on the device.

    Args:
        state: folder where `state` is mounted.
        data: folder where the data disk is going to be.
        mount: mounts an open data disk there.
    """

    state: Path
    data: Path
    mount: Callable[[Path], None]


class _Opening:
    """The way to one open disk."""

    def __init__(self, vault: Vault, record: Record, places: Places) -> None:
        self.vault, self.record, self.places = vault, record, places
        self.tpm = tpm_unlock(vault.luks)

    def make(self, passphrase: bytes, recovery: RecoverySecret, tell: Callable[[str], object]) -> None:
        """Make it (`unlocking.Session`)."""
        self._check_empty_one()
        state, data = self.places.state, self.places.data
        if data.is_mount():
            run("umount", str(data))
        close()
        device = self.vault.make(self.record.uuid, passphrase, recovery, tell)
        tell("keeping what derives from the recovery secret")
        self.places.mount(device)
        keep_recovery_keys(data, recovery)
        run("sync", "--file-system", str(data))
        luks = self.vault.luks
        if self.record.usb_key:
            give_stick(luks, self.record.uuid, recovery.disk_key, Sticks(), tell, tell_all, data)
        if self.record.relay:
            give_relay(luks, self.record.uuid, recovery.disk_key, data)
        if self.record.tpm2:
            tell("giving a key to the TPM")
            want_tpm(luks, recovery.disk_key)
            give_tpm(self.tpm, recovery.disk_key, new=True, tell=tell_all)
        self.vault.finish()
        keep_record(state, self.record.model_copy(update={"making": ""}))

    def unlock(self, typed: str) -> bool:
        """Unlock it with what somebody has typed (`unlocking.Session`)."""
        self._check_same()
        if not self.vault.unlock(typed):
            return False
        # Who types vouches for what has changed; a stick and the relay do not.
        if wants_tpm(self.vault.luks) and (known := self.vault.typed_key(typed)):
            give_tpm(self.tpm, known, new=False, tell=tell_all)
        return True

    def unlock_by(self, key: bytes) -> bool:
        """Unlock it with a key from a stick; False when it is another one.

        Raises:
            LuksError: nobody can tell.
        """
        self._check_same()
        return self.vault.luks.open(key, Use.USB_KEY)

    def _check_same(self) -> None:
        """Make sure that the disk is still the one whose head was looked at; a person may have been waited for since.

        Raises:
            LuksError: it is not.
        """
        found = read_luks(self.vault.partition)
        if found is None or found.uuid != self.record.uuid or self.vault.luks.why_not_ours():
            raise LuksError(_EXCHANGED.format(partition=self.vault.partition))

    def _check_empty_one(self) -> None:
        """Make sure that the partition is still the one that was found empty; a disk's name goes to the next one.

        Raises:
            DiskError: it is not.
        """
        if self.record.place is Place.SYSTEM:
            return
        run("udevadm", "settle")
        partition = str(self.vault.partition)
        try:
            listed = json.loads(run("lsblk", "--json", "--nodeps", "--output", "PARTUUID", partition))["blockdevices"]
        except subprocess.CalledProcessError:  # it is not there
            listed = []
        if [row["partuuid"] for row in listed] != [self.record.making]:
            raise DiskError(_EXCHANGED.format(partition=partition))

    def refuse(self, why: str, door: Door) -> None:
        """Tell everybody why the disk is not opened, for as long as it is plugged in.

        Raises:
            DiskError: it is not any more.
        """
        text = not_ours(self.vault.partition, why)
        print(text, flush=True)
        announce(f"DarkPipe: {text}")
        session = Session(new=False, make=self.make, unlock=self.unlock, clock=time.monotonic, refused=text)
        door.open(session)
        while self.vault.partition.exists():
            time.sleep(_LOOK_AGAIN)
        raise DiskError(f"{self.vault.partition} was unplugged. Plug in the right one, and start again")

    def wait(self, door: Door, warning: str) -> None:
        """Wait until somebody or a stick has unlocked it, or somebody has had it made.

        Args:
            warning: what whoever types should know before; empty for nothing.

        Raises:
            DiskError: it could not be made or opened; the text says why.
        """
        new = bool(self.record.making)
        # A code is wanted for a new disk only; of another one's, the card with the owner's own is no matter.
        code = door.code if new else None
        session = Session(new=new, make=self.make, unlock=self.unlock, clock=time.monotonic, code=code, warning=warning)
        door.open(session)
        wanted = "needs a passphrase to be made" if new else "is locked"
        print(f"the disk for the mail, {self.vault.partition}, {wanted}", flush=True)
        sticks = (session, self.vault.luks, self.record.uuid, Sticks(), known_devices, self.unlock_by)
        with nullcontext() if new else beside(partial(watch_sticks, *sticks)):
            session.finished.wait()
        if session.view().stage is not Stage.OPEN:
            raise DiskError(session.view().text)


def open_disk(partition: Path, record: Record, places: Places, door: Door) -> Path:
    """Wait until the disk is unlocked, or made.

    Args:
        door: where people are asked.

    Returns:
        The device with the btrfs in it.

    Raises:
        DiskError: it cannot be made, or it was unplugged after its head was found to be another's.
        LuksError, CertificateError: cryptsetup(8) or openssl(1) fail.
    """
    if MAPPED.exists() and not record.making:  # this service starts a second time
        return MAPPED
    opening = _Opening(Vault(partition, this_machine()), record, places)
    if not record.making and (why := opening.vault.luks.why_not_ours()):
        opening.refuse(why, door)
    warned: list[str] = []

    def warn(text: str) -> None:
        announce(text)
        warned.append(text.removeprefix("DarkPipe: "))

    if record.making or not wants_tpm(opening.vault.luks) or not try_tpm(opening.tpm, warn):
        opening.wait(door, "\n".join(warned))
    return MAPPED


def tell_all(text: str) -> None:
    """Tell whoever sits at the device, and whoever waits for the disk on its page."""
    announce(text)
    leave_word(text.removeprefix("DarkPipe: "))


def not_ours(partition: Path, why: str) -> str:
    """Say, for people, that a disk is not opened, and what to do.

    Args:
        why: what in its head no DarkPipe makes.
    """
    return (
        f"{partition} is not unlocked, and no passphrase is asked for: its head was not written by a DarkPipe: {why}. "
        "SOMEBODY MAY HAVE HAD THE DISK IN HAND, so that your mail would lie open on it. Nothing on it was changed. "
        "Have another disk made, and restore a backup; or, if it was you who changed its encryption, undo that on "
        "another computer with cryptsetup(8)"
    )


def check_head(partition: Path) -> None:
    """Make sure that a container that this device has not seen before is one that a DarkPipe has made.

    Raises:
        DiskError: it is not.
        LuksError: its head cannot be read.
    """
    if why := Luks(partition).why_not_ours():
        raise DiskError(not_ours(partition, why))


def holds_mail(partition: Path) -> bool:
    """Tell whether a device's data lie on a partition without encryption."""
    found = read_btrfs(partition)
    return found is not None and found.label == label("data") and found.used > _NEW


def check_empty(partition: Path) -> None:
    """Make sure that a partition which is going to be encrypted holds no mail, of a `state` that has lost its memory.

    Raises:
        DiskError: it does.
    """
    if holds_mail(partition):
        raise DiskError(
            f"{partition} holds a device's mail that is NOT encrypted, and {SEED_NAME} asks for encryption, which "
            f"would destroy it. Write `unlock: none` into {SEED_NAME} to use it as it is, or write the image again"
        )


def try_tpm(tpm: TpmUnlock | None, tell: Callable[[str], object]) -> bool:
    """Unlock the disk by the TPM; when that fails, tell people why.

    Args:
        tpm: None when the device has none.
    """
    why: str | None
    try:
        if tpm is None:
            why = "this device has no TPM 2.0, or it is switched off in the firmware's settings"
        else:
            tpm.measure(pending=True)
            why = tpm.unlock()
    except (TpmError, LuksError, SeedError, DiskError, OSError) as error:
        why = str(error).rstrip(".")
    if why is None:
        print("the disk for the mail was unlocked by the TPM", flush=True)
        return True
    print(f"the TPM does not unlock the disk for the mail: {why}", flush=True)
    if why == NOTHING_SEALED:
        tell(f"DarkPipe: {why}. Type the passphrase: then it is given a key.")
        return False
    tell(
        f"DarkPipe: the TPM does not unlock the disk for the mail: {why}.\n"
        "If this is your doing, or an update's, type the passphrase: then it is sealed anew. IF IT IS NOT, somebody "
        "may have had the device in hand: do not type it here."
    )
    return False


def give_tpm(tpm: TpmUnlock | None, known: bytes, *, new: bool, tell: Callable[[str], object] = announce) -> None:
    """Seal a new key to the TPM, for a disk whose policy that is; when that fails, the passphrase has to do.

    Args:
        tpm: None when the device has none.
        known: a key that opens the disk.
        new: whether the disk was made now, so that it was not measured yet.
    """
    try:
        if tpm is None:
            raise TpmError("this device has no TPM 2.0, or it is switched off in the firmware's settings")
        if new:
            tpm.measure(pending=False)
        tpm.renew(known)
    except (TpmError, LuksError, OSError) as error:
        tell(f"DarkPipe: no key was given to the TPM: {str(error).rstrip('.')}. The passphrase unlocks the disk.")
        return
    print("a key that unlocks the disk for the mail was sealed to the TPM", flush=True)
