"""A disk that the TPM unlocks, with the device's systemd-creds(1) and cryptsetup(8), a real LUKS2 head and swtpm(8).

Each start is the TPM's own: it is switched off and on, and its registers are extended as firmware and DarkPipe do it.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from uuid import UUID

import pytest

from firstboot.cipher import AES_XTS
from firstboot.luks import Luks, LuksError, Use, cryptsetup
from firstboot.measuring import Measurements, What, measure_disk
from firstboot.tpm import Sealer, TpmError
from firstboot.tpm_unlock import TpmUnlock, forget_tpm, want_tpm
from tests.machine.writes import wrap
from tests.tpm import Swtpm, why_no_tpm

pytestmark = pytest.mark.skipif(why_no_tpm() is not None, reason=str(why_no_tpm()))

_RECOVERY, _PASSPHRASE = b"r" * 16, b"eleven quiet geese"


class Cut(Exception):
    """The power went."""


class TriedOnly(Luks):
    """A container whose keys are tried and that is never opened: containers have no device mapper."""

    def open(self, key: bytes, use: Use, name: str = "data") -> bool:
        """Tell whether it would be opened."""
        assert name
        return self.fits(key, use)


class House:
    """A device with a TPM and a disk.

    Args:
        tpm: its TPM.
        disk: the file that is its disk.
        scratch: a folder.
        program: the device's systemd-creds.
    """

    def __init__(self, tpm: Swtpm, disk: Path, scratch: Path, program: str) -> None:
        self.tpm, self.disk, self._scratch, self._program = tpm, disk, scratch, program
        self._starts = 0

    def start(
        self,
        *,
        firmware: str = "nothing",
        settings: str = "{}",
        disk: Path | None = None,
        cut: Callable[[Sequence[str]], None] = lambda _: None,
        **measured: str,
    ) -> TpmUnlock:
        """Start it, up to where the disk is to be unlocked.

        Args:
            firmware: what the firmware tells the system.
            settings: those that take effect.
            disk: the one that is found; None for its own.
            cut: sees each of cryptsetup's command lines before it runs.
            measured: what else the firmware measures (`Swtpm.started`).
        """
        self._starts += 1
        log = Measurements(self.tpm.started(**measured), self._scratch / f"measured-{self._starts}")
        log.measure(What.FIRMWARE, firmware.encode())
        log.measure(What.SETTINGS, settings.encode())

        def tool(arguments: Sequence[str], secrets: Sequence[bytes]) -> subprocess.CompletedProcess[str]:
            cut(arguments)
            return cryptsetup(arguments, secrets)

        luks = TriedOnly(disk or self.disk, tool)
        measure_disk(log, luks.describe())
        return TpmUnlock(luks, log, Sealer(self.tpm.device, self._program))


@pytest.fixture
def house(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    """A device whose policy is `tpm2`, with nothing sealed yet."""
    wrapper = wrap(root, "usr/sbin/cryptsetup", tmp_path)
    creds = wrap(root, "usr/bin/systemd-creds", tmp_path)
    monkeypatch.setenv("PATH", f"{wrapper.parent}:/usr/sbin:/usr/bin:/sbin:/bin")
    monkeypatch.delenv("RECORD", raising=False)
    luks = _container(tmp_path / "disk", _PASSPHRASE)
    want_tpm(luks, _PASSPHRASE)
    tpm = Swtpm(tmp_path / "tpm")
    yield House(tpm, tmp_path / "disk", tmp_path, str(creds))
    tpm.off()


def _container(disk: Path, passphrase: bytes) -> Luks:
    with disk.open("wb") as file:
        file.truncate(17 * 2**20)
    luks = Luks(disk)
    luks.format(UUID(int=7), AES_XTS, _RECOVERY, Use.RECOVERY)
    luks.add(_RECOVERY, passphrase, Use.PASSPHRASE, None)
    return luks


@pytest.fixture
def sealed(house: House) -> House:
    """The same, after somebody has typed the passphrase once."""
    start = house.start()
    assert start.unlock() == "nothing is sealed to this device's TPM yet"
    start.renew(_PASSPHRASE)
    return house


def test_the_same_start_unlocks_it_and_a_later_one_too(sealed: House) -> None:
    before = sealed.disk.read_bytes()
    for _ in range(2):
        assert sealed.start().unlock() is None
    assert sealed.disk.read_bytes() == before, "unlocking writes nothing"
    assert [slot.use for slot in Luks(sealed.disk).slots()] == [Use.RECOVERY, Use.PASSPHRASE, Use.TPM2]


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"r4": "a foreign boot loader"}, "the boot loader or the kernel image"),
        ({"r11": "another kernel image"}, "the kernel image"),
        ({"r0": "another firmware"}, "firmware"),
        ({"r2": "a driver on the boot partition"}, "driver on the boot partition"),
        ({"r12": "init=/bin/sh"}, "command line"),
        ({"r7": "Secure Boot"}, "Secure Boot"),
        ({"r13": "an extension of the system"}, "systemd-creds decrypt failed"),
        ({"firmware": "SystemdOptions"}, "SMBIOS strings, an EFI variable"),
        ({"settings": '{"login": "thief"}'}, "/state/settings.json"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_another_start_does_not(sealed: House, changed: dict[str, str], named: str) -> None:
    """Nor does it give out the key to whoever asks the TPM directly, which is what a thief would do."""
    start = sealed.start(**changed)  # type: ignore[arg-type]
    why = start.unlock()
    assert why is not None
    assert named in why
    (token,) = start.luks.tokens(Use.TPM2)
    with pytest.raises(TpmError, match="systemd-creds decrypt failed"):
        start.sealer.unseal(token.fields["sealed"])
    assert sealed.start().unlock() is None, "the control: its own start still does"


def test_once_data_is_about_to_be_mounted_nobody_gets_the_key(sealed: House) -> None:
    start = sealed.start()
    (token,) = start.luks.tokens(Use.TPM2)
    key = start.sealer.unseal(token.fields["sealed"])
    start.measurements.close()
    with pytest.raises(TpmError, match="systemd-creds decrypt failed"):
        start.sealer.unseal(token.fields["sealed"])
    with pytest.raises(TpmError, match="start it again"):
        start.renew(_PASSPHRASE)
    assert start.luks.fits(key, Use.TPM2), "the control: it is the key"


def test_a_seed_that_a_cut_left_on_the_boot_partition_is_asked_about_once(sealed: House) -> None:
    """What fits the start without it is kept: the one after the passphrase was typed and the seed taken over."""
    start = sealed.start()
    start.measurements.measure(What.PENDING, b"darkpipe.yaml")
    why = start.unlock()
    assert why is not None
    assert "files on the boot partition" in why
    with pytest.raises(TpmError, match="wait to be taken over"):
        start.renew(_PASSPHRASE)
    assert sealed.start().unlock() is None


def test_a_disk_of_a_thiefs_with_the_same_token_does_not_get_the_key(sealed: House, tmp_path: Path) -> None:
    """The same identifier and sealed key, but a thief's passphrase: he would be root later and look for the key."""
    (token,) = Luks(sealed.disk).tokens(Use.TPM2)
    foreign = _container(tmp_path / "foreign", b"a passphrase of the thief's")
    foreign.keep_token(Use.TPM2, (), token.fields, None)
    start = sealed.start(disk=foreign.partition)
    why = start.unlock()
    assert why is not None
    assert "the head of the disk" in why
    with pytest.raises(TpmError):
        start.sealer.unseal(token.fields["sealed"])


def test_a_head_that_says_there_is_no_encryption_does_not_get_the_key(sealed: House, tmp_path: Path) -> None:
    """The key's slots and digest are genuine, so that the key would fit; but data would be what a thief has written."""
    forged = tmp_path / "forged"
    forged.write_bytes(sealed.disk.read_bytes())
    description = Luks(sealed.disk).describe()
    start = sealed.start(disk=forged)
    assert start.unlock() is None, "the control: a copy is as good"
    start = sealed.start()
    changed = {**description, "segments": {"0": {**description["segments"]["0"], "encryption": "cipher_null-ecb"}}}
    log = Measurements(sealed.tpm.started(), tmp_path / "forged-log")
    log.measure(What.FIRMWARE, b"nothing")
    log.measure(What.SETTINGS, b"{}")
    measure_disk(log, changed)
    why = TpmUnlock(start.luks, log, start.sealer).unlock()
    assert why is not None
    assert "the head of the disk" in why


def test_another_devices_tpm_does_not_unlock_it_and_can_be_given_a_key(sealed: House, tmp_path: Path) -> None:
    other = House(Swtpm(tmp_path / "other"), sealed.disk, tmp_path / "log", sealed.start().sealer.program)
    (tmp_path / "log").mkdir()
    try:
        start = other.start()
        assert start.unlock() is not None
        start.renew(_PASSPHRASE)
        assert other.start().unlock() is None
        assert len(Luks(sealed.disk).slots()) == 3, "the first device's is gone"
        assert sealed.start().unlock() is not None
    finally:
        other.tpm.off()


@pytest.mark.parametrize(
    "planted", [{}, {"wish": "0" * 64}, {"wish": "another disk's"}], ids=["none", "zeros", "copied"]
)
def test_a_wish_that_a_thief_has_planted_is_not_granted(house: House, tmp_path: Path, planted: dict[str, str]) -> None:
    """Who had the disk in hand, and wants the whole device to start by itself when he takes it later."""
    if planted.get("wish") == "another disk's":
        other = _container(tmp_path / "other", _PASSPHRASE)
        want_tpm(other, _PASSPHRASE)
        planted = dict(other.tokens(Use.TPM2)[0].fields)
    luks = Luks(house.disk)
    forget_tpm(luks)
    luks.keep_token(Use.TPM2, (), planted, None)
    before = house.disk.read_bytes()
    start = house.start()
    assert start.unlock() is not None
    with pytest.raises(TpmError, match="SOMEBODY MAY HAVE HAD THE DISK IN HAND"):
        start.renew(_PASSPHRASE)
    assert house.disk.read_bytes() == before
    want_tpm(luks, _PASSPHRASE)
    start.renew(_PASSPHRASE)
    assert house.start().unlock() is None, "the control: the owner's own is"


def test_power_cuts_while_a_passphrase_is_asked_for_do_not_lock_it_out_either(sealed: House) -> None:
    """A device that waits is one whose plug is pulled: somebody has given up, or wants to look at it elsewhere."""
    for _ in range(12):
        assert sealed.start(r4="another boot loader").unlock() is not None
        sealed.tpm.off(orderly=False)
    assert sealed.start().unlock() is None


def test_power_cuts_do_not_lock_the_tpm_out(sealed: House) -> None:
    """A TPM takes a cut after it has given out a key for a wrong guess, but not once it was told that one may come."""
    for _ in range(12):
        start = sealed.start()
        assert start.unlock() is None
        start.measurements.close()
        sealed.tpm.off(orderly=False)
    (token,) = start.luks.tokens(Use.TPM2)
    why = ""
    for _ in range(40):
        start = sealed.start()
        try:
            start.sealer.unseal(token.fields["sealed"])
        except TpmError as error:
            why = str(error)
            break
        sealed.tpm.off(orderly=False)
    assert why, "the control: without being told it is locked out"
    assert "systemd-creds decrypt failed" in why
    assert start.luks.fits(_PASSPHRASE, Use.PASSPHRASE)


_CHANGES: dict[str, Callable[[TpmUnlock], object]] = {
    "renew": lambda start: start.renew(_PASSPHRASE),
    "forget": lambda start: forget_tpm(start.luks),
}


@pytest.mark.parametrize("name", _CHANGES)
@pytest.mark.parametrize("old", ["nothing", "another system's"])
def test_cut_anywhere_there_is_the_old_or_the_new(house: House, name: str, old: str) -> None:
    """After each of cryptsetup's calls: the next start unlocks it or says why not, and the command ends the change."""
    if old != "nothing":
        first = house.start(r4="the system before the update")
        first.renew(_PASSPHRASE)
    before = house.disk.read_bytes()
    change = _CHANGES[name]
    ends: list[bool] = []
    for number in range(1, 20):
        house.disk.write_bytes(before)
        left = [number]

        def cut(arguments: Sequence[str], left: list[int] = left) -> None:
            if arguments[0] == "luksAddKey" or (arguments[0] in {"token", "luksKillSlot"}):
                left[0] -= 1
                if not left[0]:
                    raise Cut

        start = house.start(cut=cut)
        with suppress(Cut):
            change(start)
        after = house.start()
        ends.append(after.unlock() is None)
        assert after.luks.fits(_PASSPHRASE, Use.PASSPHRASE)
        change(after)
        uses = [slot.use for slot in after.luks.slots()]
        assert uses == [Use.RECOVERY, Use.PASSPHRASE, *([Use.TPM2] if name == "renew" else [])]
        if left[0] > 0:
            break
    else:
        pytest.fail("it never came to its end")
    if name == "renew":
        assert ends[0] is False
        assert ends[-1] is True
        assert ends == sorted(ends), "old before, new after"
    else:
        assert not any(ends)


def test_a_disk_that_cannot_be_read_is_told(sealed: House) -> None:
    start = sealed.start()
    sealed.disk.write_bytes(bytes(2**20))
    with pytest.raises(LuksError):
        start.unlock()
