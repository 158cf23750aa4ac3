"""The policy `tpm2`: a key in one of the disk's slots, sealed to this device's TPM and to how it was started.

A token in the disk's head keeps what was sealed; a token without it is the wish for one. A wish proves that it was made
by who can open the disk: else whoever had it in hand could have a key sealed, and take the device that then starts by
itself. The passphrase always works, since a TPM may die, be reset, or refuse for hours after some power cuts (its
lockout).
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from firstboot.luks import Luks, Token, Use
from firstboot.measuring import Measurements, What, measure_disk, measure_pending
from firstboot.tpm import BOUND, OURS, Sealer, Tpm, TpmError, expect_power_cut, open_tpm, read

_KEY_BYTES = 32
_SEALED, _STATE, _WISH = "sealed", "measured", "wish"
_WISHED = b"darkpipe: unlock: tpm2"

NOTHING_SEALED = "nothing is sealed to this device's TPM yet"

_NEEDED = (What.FIRMWARE, What.SETTINGS, What.DISK)
_BY_OTHERS = tuple(register for register in BOUND if register != OURS)
_STARTED_BY = {0: "the firmware", 4: "the boot loader", 7: "Secure Boot's state", 11: "the kernel image"}
"""What must have been measured before DarkPipe, or anybody can pretend to be it; 2 and 12 may be empty."""

_CHANGES = {
    "0": "the device's firmware",
    "2": "a plug-in card, or a driver on the boot partition",
    "4": "the boot loader or the kernel image, as an update or another system does it",
    "7": "the setting of Secure Boot",
    "11": "the kernel image, as an update or another system does it",
    "12": "the kernel's command line, or a file beside the kernel image",
    str(What.FIRMWARE): "what the firmware tells the system (SMBIOS strings, an EFI variable)",
    str(What.SETTINGS): "the device's settings (/state/settings.json)",
    str(What.DISK): "the head of the disk for the mail",
    str(What.PENDING): "files on the boot partition that wait to be taken over",
}


def why_unfit(tpm: Tpm | None) -> str | None:
    """Say why this device cannot have the policy; None when it can.

    Raises:
        TpmError: the TPM cannot be asked.
    """
    if tpm is None:
        return "this device has no TPM 2.0, or it is switched off in the firmware's settings"
    for register, what in _STARTED_BY.items():
        value = read(tpm, register)
        if not value:
            return "this device's TPM keeps no SHA-256 of what was started"
        if value in {bytes(32), b"\xff" * 32}:
            return f"nobody has measured {what} into this device's TPM: another system could pretend to be this one"
    return None


@dataclass(frozen=True)
class TpmUnlock:
    """The policy on one disk.

    Args:
        luks: the disk.
        measurements: of this start.
        sealer: gives keys to the TPM.
        make_key: makes a new one.
    """

    luks: Luks
    measurements: Measurements
    sealer: Sealer
    make_key: Callable[[], bytes] = lambda: secrets.token_bytes(_KEY_BYTES)

    def measure(self, *, pending: bool) -> None:
        """Measure the disk; must be called before anything is sealed or unsealed.

        Args:
            pending: whether what waits on the boot partition is measured, too: for every disk that is not new.

        Raises:
            TpmError, LuksError, OSError: it was not done.
        """
        measure_disk(self.measurements, self.luks.describe())
        if pending:
            measure_pending(self.measurements)

    def unlock(self) -> str | None:
        """Unlock the disk by the TPM; what a change that was cut off has left is cleared away.

        Returns:
            None when it is open, else why it is not.

        Raises:
            LuksError: the disk cannot be read.
        """
        why: str | None = None
        for token in reversed(self.luks.tokens(Use.TPM2)):
            if _SEALED not in token.fields:
                continue
            try:
                key = self._unseal(str(token.fields[_SEALED]))
            except TpmError as error:
                why = why or self._explain(token, error)
                continue
            if (used := self._named(token, key)) and self.luks.open(key, Use.TPM2):
                self._remove_others(used)
                return None
            why = why or "the TPM's key opens no slot of this disk"
        return why or NOTHING_SEALED

    def renew(self, known: bytes) -> None:
        """Make a key, seal it to this device as it was started now, let it unlock the disk, and remove older ones.

        The token comes before the slot: a slot whose key is sealed nowhere would open for nobody, and stay.

        Args:
            known: a key that opens the disk.

        Raises:
            TpmError: this start is not one to be sealed to, nobody who can open the disk has wished for it, or the TPM
                refuses; nothing was changed.
            LuksError: the key cannot be added.
        """
        self._check()
        wish = _wish(self.luks, known)
        wishes = (str(token.fields.get(_WISH, "")) for token in self.luks.tokens(Use.TPM2))
        if not any(hmac.compare_digest(wish.encode(), found.encode()) for found in wishes):
            raise TpmError(
                "the head of the disk asks for it, and it was not written there by anybody who can open the disk: "
                "SOMEBODY MAY HAVE HAD THE DISK IN HAND. `darkpipe disk change-policy passphrase` takes it away"
            )
        key = self.make_key()
        sealed = self.sealer.seal(key)
        if self._unseal(sealed) != key:
            raise TpmError("the TPM does not give back what was sealed a moment ago")
        fields = {_SEALED: sealed, _STATE: self._state(), _WISH: wish}
        old = {token.number for token in self.luks.tokens(Use.TPM2)}
        self.luks.keep_token(Use.TPM2, (), fields, None)
        (made,) = (token for token in self.luks.tokens(Use.TPM2) if token.number not in old)
        slot = self.luks.add_unnamed(known, key, None)
        self.luks.keep_token(Use.TPM2, (slot,), fields, made)
        self._remove_others(made.number)

    def _unseal(self, sealed: str) -> bytes:
        try:
            return self.sealer.unseal(sealed)
        finally:
            # From here on somebody may be asked for a passphrase, and pull the plug instead.
            with suppress(TpmError):
                expect_power_cut(self.measurements.tpm)

    def _check(self) -> None:
        if unfit := why_unfit(self.measurements.tpm):
            raise TpmError(unfit)
        done = self.measurements.done()
        missing = [what for what in _NEEDED if what not in done]
        if missing or What.CLOSED in done or not self.measurements.agree():
            named = f" ({', '.join(missing)})" if missing else ""
            raise TpmError(f"not all that this device obeys was measured when it started{named}: start it again")
        if What.PENDING in done:
            # The next start will not find them. What was sealed before, at a first start for instance, fits that one.
            raise TpmError("files on the boot partition wait to be taken over now; what is sealed stays as it is")

    def _named(self, token: Token, key: bytes) -> int | None:
        """Make sure that a token knows the slot that its key opens; None when there is no such slot."""
        there = self.luks.slots()
        if any(slot.number in token.slots for slot in there):
            return token.number
        # A power cut came between the slot and its name.
        for slot in there:
            if slot.use is None and self.luks.fits_slot(key, slot.number):
                self.luks.keep_token(Use.TPM2, (slot.number,), token.fields, token)
                return token.number
        return None

    def _remove_others(self, kept: int) -> None:
        for token in self.luks.tokens(Use.TPM2):
            if token.number != kept:
                self.luks.remove_token(token)

    def _state(self) -> dict[str, str]:
        registers = {str(register): read(self.measurements.tpm, register).hex() for register in _BY_OTHERS}
        return {**registers, **self.measurements.done()}

    def _explain(self, token: Token, error: TpmError) -> str:
        try:
            before = token.fields.get(_STATE)  # whatever somebody may have written there
            changed = what_changed(before if isinstance(before, dict) else {}, self._state())
        except TpmError as another:
            return str(another)
        if not changed:
            return str(error)
        return f"changed since it was sealed: {'; '.join(changed)}"


def what_changed(before: Mapping[str, Any], now: Mapping[str, str]) -> tuple[str, ...]:
    """Name what differs between two starts, for people."""
    return tuple(dict.fromkeys(text for name, text in _CHANGES.items() if before.get(name) != now.get(name)))


def wants_tpm(luks: Luks) -> bool:
    """Tell whether the policy of a disk is `tpm2`.

    Raises:
        LuksError: the disk cannot be read.
    """
    return bool(luks.tokens(Use.TPM2))


def want_tpm(luks: Luks, known: bytes) -> None:
    """Make `tpm2` the policy of a disk; a key is sealed at the next start, when somebody has typed a passphrase.

    Args:
        known: a key that opens the disk.

    Raises:
        LuksError: it does not, or the wish cannot be kept.
    """
    luks.keep_token(Use.TPM2, (), {_WISH: _wish(luks, known)}, None)


def _wish(luks: Luks, known: bytes) -> str:
    return hmac.new(luks.volume_key(known), _WISHED, hashlib.sha256).hexdigest()


def forget_tpm(luks: Luks) -> None:
    """Destroy what the TPM unlocks a disk by, and the wish for it.

    Raises:
        LuksError: it cannot be destroyed.
    """
    for token in luks.tokens(Use.TPM2):
        luks.remove_token(token)


def tpm_unlock(luks: Luks, tpm: Tpm | None = None) -> TpmUnlock | None:
    """Give the policy on a disk by this device's TPM; None when it has none."""
    tpm = tpm or open_tpm()
    return TpmUnlock(luks, Measurements(tpm), Sealer()) if tpm else None
