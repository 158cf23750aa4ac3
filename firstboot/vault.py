"""The encrypted data disk as a whole: LUKS2 on a partition, btrfs in it. Making it, and unlocking it.

Making it is no step that has to be carried on: until it is finished nothing of worth is on the partition, which the
record on `state` says (`firstboot/data_place.py`). A power cut on the way means that it is made from the beginning.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from firstboot.cipher import Cipher, choose_cipher
from firstboot.costs import Costs, choose_costs
from firstboot.luks import MAPPED, Luks, LuksError, Use, close
from firstboot.partitions import label, run
from firstboot.recovery import RecoveryError, RecoverySecret, parse_secret
from model.passwords import SHORTEST_PASSPHRASE

SHORTEST, LONGEST = SHORTEST_PASSPHRASE, 1024
"""Characters of a passphrase."""


_RELAY_WORD = "darkpipe-relay:"
_UNREADABLE = "\ufffd"
"""What Python puts in the place of what is no UTF-8."""


class PassphraseError(ValueError):
    """This cannot be the passphrase; the text says why."""


@dataclass(frozen=True)
class Machine:
    """What the disk is made for: the device's processor and memory."""

    cipher: Cipher
    costs: Costs


def this_machine(proc: Path = Path("/proc")) -> Machine:
    """Look at the device that this runs on."""
    cpuinfo = _read(proc / "cpuinfo")
    return Machine(choose_cipher(cpuinfo), choose_costs(_read(proc / "meminfo"), os.cpu_count() or 1))


def encode_passphrase(text: str) -> bytes:
    """Give a passphrase the one form in which every keyboard and browser sends it (Unicode's NFC)."""
    return unicodedata.normalize("NFC", text).encode()


def check_passphrase(text: str) -> bytes:
    """Judge a new passphrase.

    Raises:
        PassphraseError: it is too short, or nobody could type it again.
    """
    if len(text) < SHORTEST:
        raise PassphraseError(f"it has {len(text)} characters; a passphrase has {SHORTEST} or more, best four words")
    if len(text) > LONGEST:
        raise PassphraseError(f"it has {len(text)} characters; a passphrase has {LONGEST} or fewer")
    if _UNREADABLE in text:
        # Every such character would become the same one, and another keyboard would send another one.
        raise PassphraseError("it has a character in an encoding other than UTF-8: set the terminal to UTF-8")
    if not text.isprintable() or text != text.strip():
        raise PassphraseError("it begins or ends with a space, or has a character that does not show")
    if text.startswith(_RELAY_WORD):
        raise PassphraseError(f"it begins with {_RELAY_WORD}, as what the relay helps to have does")
    if _is_recovery_secret(text):
        raise PassphraseError("it is a recovery secret: choose a passphrase of your own")
    return encode_passphrase(text)


class Vault:
    """The encrypted data disk on one partition.

    Args:
        partition: its device.
        machine: what a new one is made for.
    """

    def __init__(self, partition: Path, machine: Machine, luks: Luks | None = None) -> None:
        self.partition = partition
        self.luks = luks or Luks(partition)
        self._machine = machine

    def make(self, uuid: UUID, passphrase: bytes, recovery: RecoverySecret, tell: Callable[[str], object]) -> Path:
        """Make it anew and leave it unlocked; without its label, so that no device takes it for a finished one.

        Args:
            uuid: of the container.
            tell: is told what is going on.

        Returns:
            The device with the btrfs in it.

        Raises:
            LuksError, subprocess.CalledProcessError: it cannot be made.
        """
        close()
        tell("making the encrypted container")
        self.luks.format(uuid, self._machine.cipher, recovery.disk_key, Use.RECOVERY)
        tell("adding the passphrase")
        self.luks.add(recovery.disk_key, passphrase, Use.PASSPHRASE, self._machine.costs)
        tell("unlocking it, as at every later start")
        if not self.luks.open(recovery.disk_key, Use.RECOVERY) or not self.luks.fits(passphrase, Use.PASSPHRASE):
            raise LuksError("the new container does not open: the disk does not keep what is written to it")
        tell("making the file system in it")
        run("mkfs.btrfs", "--quiet", "--force", "--label", label("data"), str(MAPPED))
        return MAPPED

    def finish(self) -> None:
        """Say that it is whole: from now on any device that it is plugged into may adopt it."""
        self.luks.finish(label("data"))

    def unlock(self, typed: str) -> bool:
        """Unlock it with what somebody has typed, passphrase or recovery secret; False when it is neither.

        Raises:
            LuksError: it is right, or not known to be wrong, and the disk cannot be unlocked.
        """
        if MAPPED.exists():
            return True
        if key := _relay_key(typed):
            # No passphrase begins like that: guessing one would keep everybody else from being heard meanwhile.
            return self.luks.open(key, Use.RELAY)
        try:
            if self.luks.open(parse_secret(typed).disk_key, Use.RECOVERY):
                return True
        except RecoveryError:
            pass
        return self.luks.open(encode_passphrase(typed), Use.PASSPHRASE)

    def typed_key(self, typed: str) -> bytes | None:
        """Give the key behind what has unlocked it; None when no person has typed that, but the relay has helped.

        Raises:
            LuksError: nobody can tell.
        """
        if _relay_key(typed):
            return None
        try:
            key = parse_secret(typed).disk_key
        except RecoveryError:
            return encode_passphrase(typed)
        return key if self.luks.fits(key, Use.RECOVERY) else encode_passphrase(typed)


def relay_words(key: bytes) -> str:
    """Write a key that was had with the relay's help as what is typed is written."""
    return f"{_RELAY_WORD}{key.hex()}"


def _relay_key(typed: str) -> bytes | None:
    if not typed.startswith(_RELAY_WORD):
        return None
    try:
        return bytes.fromhex(typed.removeprefix(_RELAY_WORD))
    except ValueError:
        return None


def _is_recovery_secret(text: str) -> bool:
    try:
        parse_secret(text)
    except RecoveryError:
        return False
    return True


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
