"""What is measured, in which order, and what the TPM is told; that a real one does so, the machine tier shows."""

from __future__ import annotations

import hashlib
import itertools
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from firstboot import opening
from firstboot.imager import FILES, ImagerError
from firstboot.measuring import Measurements, What, close_tpm, measure_disk, measure_settings, read_pending
from firstboot.partitions import DiskError
from firstboot.seed import SeedError
from firstboot.tpm import BOUND, OURS, Sealer, TpmError, after, expect_power_cut, extend, open_tpm, read
from firstboot.tpm_unlock import NOTHING_SEALED, TpmUnlock, what_changed, why_unfit
from model.document import SEED_NAME
from model.settings import Settings
from model.tunnel import HOME_FILE
from tests.unit.test_firstboot_luks import Header2, a_container

_MEASURE = Path(__file__).resolve().parents[2] / "profiles/x64/initramfs/scripts/darkpipe-measure"


class Chip:
    """A TPM that knows three commands.

    Args:
        sha256: whether it keeps registers by that algorithm.
    """

    def __init__(self, *, sha256: bool = True) -> None:
        self.registers = dict.fromkeys(range(24), bytes(32))
        self.sha256, self.broken, self.deaf = sha256, False, False
        self.commands: list[bytes] = []

    def __call__(self, command: bytes) -> bytes:
        tag, size, code = struct.unpack(">HII", command[:10])
        assert size == len(command)
        self.commands.append(command)
        if self.broken:
            return struct.pack(">HII", 0x8001, 10, 0x921)
        if code == 0x182:
            assert tag == 0x8002
            register, *_ = struct.unpack(">I", command[10:14])
            if self.sha256 and not self.deaf:
                self.registers[register] = hashlib.sha256(self.registers[register] + command[-32:]).digest()
            return struct.pack(">HIIIHBH", 0x8002, 19, 0, 0, 0, 1, 0)
        if code == 0x145:
            return struct.pack(">HII", 0x8001, 10, 0)
        assert code == 0x17E
        chosen = int.from_bytes(command[-3:], "little").bit_length() - 1
        found = struct.pack(">IH", 1, 32) + self.registers[chosen] if self.sha256 else struct.pack(">I", 0)
        bitmap = command[-3:] if self.sha256 else bytes(3)
        rest = struct.pack(">IIHB", 7, 1, 0x000B, 3) + bitmap + found
        return struct.pack(">HII", 0x8001, 10 + len(rest), 0) + rest


@pytest.fixture
def chip() -> Chip:
    """A TPM that was switched on a moment ago."""
    return Chip()


@pytest.fixture
def log(chip: Chip, tmp_path: Path) -> Measurements:
    """Measurements into it."""
    return Measurements(chip, tmp_path / "run/measured")


def test_a_register_is_extended_and_read(chip: Chip) -> None:
    digests = [hashlib.sha256(text).digest() for text in (b"one", b"two")]
    for digest in digests:
        extend(chip, digest)
    assert read(chip, OURS) == after(digests) == chip.registers[13]
    assert read(chip, 4) == bytes(32)
    assert read(Chip(sha256=False), 4) == b""
    chip.broken = True
    with pytest.raises(TpmError, match="refuses a command: error 0x921"):
        read(chip, 4)
    with pytest.raises(TpmError, match="no answer"):
        extend(lambda _: b"", digests[0])


def test_without_a_device_there_is_no_tpm(tmp_path: Path) -> None:
    assert open_tpm(tmp_path / "tpmrm0") is None
    (tmp_path / "tpmrm0").mkdir()
    found = open_tpm(tmp_path / "tpmrm0")
    assert found is not None
    with pytest.raises(TpmError, match="does not answer"):
        found(b"")


def test_the_initramfs_gives_the_same_command(chip: Chip, tmp_path: Path) -> None:
    """What the firmware tells is measured whatever it is, in the shell of the initramfs."""
    entries, variables = tmp_path / "entries", tmp_path / "efivars"
    for folder in (entries / "11-0", entries / "1-0", variables):
        folder.mkdir(parents=True)
    script = f'. {_MEASURE}; digest=$(told_by_firmware {entries} {variables}) && extend_command "$digest"'

    def command() -> bytes:
        return subprocess.run(["sh", "-c", script], capture_output=True, check=True).stdout

    seen = {command()}
    (entries / "11-0/raw").write_bytes(b"\x0b\x05io.systemd.credential:a=b\0\0")
    seen.add(command())
    (variables / "SystemdOptions-8cf2644b-4b0b-428f-9387-6d876050dc67").write_bytes(b"systemd.debug_shell")
    seen.add(command())
    (entries / "11-0/raw").write_bytes(b"\x0b\x05io.systemd.credential:a=c\0\0")
    seen.add(command())
    assert len(seen) == 4
    (entries / "1-0/raw").write_bytes(b"a serial number")
    (variables / "Boot0001-8be4df61-93ca-11d2-aa0d-00e098032b8c").write_bytes(b"a stick")
    assert command() in seen
    for made in seen:
        chip.commands.clear()
        extend(chip, made[-32:])
        assert chip.commands == [made]
    variables.rename(tmp_path / "gone")
    assert subprocess.run(["sh", "-c", script], capture_output=True, check=False).stdout == b""


def test_each_thing_is_measured_once_a_start(chip: Chip, log: Measurements) -> None:
    for _ in range(2):
        log.measure(What.SETTINGS, b"{}")
        measure_disk(log, {"segments": {}, "digests": {}})
    assert list(log.done()) == ["settings", "disk"]
    assert log.agree()
    assert chip.registers[13] == after(map(bytes.fromhex, log.done().values()))
    extend(chip, bytes(32))
    assert not log.agree(), "somebody else has measured something"


def test_the_settings_that_take_effect_are_measured(tmp_path: Path) -> None:
    logs = itertools.count()

    def measured(look: Callable[[], Settings]) -> bytes:
        chip = Chip()
        measure_settings(Measurements(chip, tmp_path / f"{next(logs)}"), look)
        return chip.registers[13]

    def broken() -> Settings:
        raise ImagerError("no")

    own, other = Settings(), Settings(hostname="thief")
    assert measured(lambda: own) == measured(Settings)
    assert len({measured(lambda: own), measured(lambda: other), measured(broken)}) == 3


def test_what_waits_on_the_boot_partition_is_found(tmp_path: Path) -> None:
    assert read_pending(tmp_path) == b""
    (tmp_path / "EFI").mkdir()
    (tmp_path / "loader.conf").touch()
    assert read_pending(tmp_path) == b""
    seen = set()
    for name in (*FILES, SEED_NAME, HOME_FILE):
        (tmp_path / name).write_text("a thief's")
        seen.add(read_pending(tmp_path))
    (tmp_path / SEED_NAME).write_text("another thief's")
    seen.add(read_pending(tmp_path))
    assert len(seen) == len(FILES) + 3


def test_closing_is_done_or_the_disk_is_not_mounted(chip: Chip, log: Measurements, tmp_path: Path) -> None:
    close_tpm(None)
    log.close()
    closed = chip.registers[13]
    assert closed != bytes(32)
    assert chip.commands[-1][6:10] == struct.pack(">I", 0x145), "and the TPM takes no power cut for a guess"
    log.close()
    assert chip.registers[13] == closed, "once is enough"
    chip.registers[13] = bytes(32)
    log.close()
    assert chip.registers[13] != bytes(32), "but it is looked at"
    for fault in ("broken", "deaf"):
        other = Chip()
        setattr(other, fault, True)
        with pytest.raises(DiskError, match="TPM, which must not unlock anything"):
            close_tpm(other, tmp_path / fault)
        close_tpm(other, tmp_path / f"{fault}-too", sealed=False)  # it keeps no other disk away
    close_tpm(Chip(sha256=False), tmp_path / "sha1")
    expect_power_cut(chip)


@pytest.mark.parametrize("register", [0, 4, 7, 11])
def test_what_nobody_has_measured_is_no_policy(chip: Chip, register: int) -> None:
    for started in BOUND:
        chip.registers[started] = hashlib.sha256(b"started").digest()
    chip.registers[2] = chip.registers[12] = bytes(32)
    assert why_unfit(chip) is None
    for empty in (bytes(32), b"\xff" * 32):
        chip.registers[register] = empty
        assert "could pretend to be this one" in str(why_unfit(chip))
    assert "no TPM 2.0" in str(why_unfit(None))
    assert "no SHA-256" in str(why_unfit(Chip(sha256=False)))


def test_what_has_changed_is_named() -> None:
    before = {"4": "aa", "11": "bb", "settings": "cc", "disk": "dd"}
    assert what_changed(before, before) == ()
    assert what_changed(before, {**before, "settings": "ee"}) == ("the device's settings (/state/settings.json)",)
    assert len(what_changed(before, {**before, "4": "ee", "11": "ff", "pending": "00"})) == 3


@pytest.mark.parametrize("planted", [[], "", 5, None])
def test_a_token_that_makes_no_sense_leaves_the_passphrase(log: Measurements, planted: object, tmp_path: Path) -> None:
    """Who had the disk in hand can write any, and the device asks for the passphrase all the same."""
    luks = a_container(header := Header2())
    header.tokens["9"] = {"type": "darkpipe-tpm2", "keyslots": [], "sealed": planted, "measured": planted}
    policy = TpmUnlock(luks, log, Sealer("device:/dev/null", str(tmp_path / "missing")))
    assert policy.unlock() is not None


def test_the_programs_own_words_are_told(tmp_path: Path) -> None:
    program = tmp_path / "creds"
    program.write_text("#!/bin/sh\ncat >/dev/null\necho a word >&2\necho the reason >&2\nexit 1\n")
    program.chmod(0o755)
    sealer = Sealer("device:/dev/null", str(program))
    with pytest.raises(TpmError, match="systemd-creds encrypt failed: the reason"):
        sealer.seal(b"key")
    with pytest.raises(TpmError, match="damaged"):
        sealer.unseal("no base64!")
    with pytest.raises(TpmError, match="cannot be run"):
        Sealer("device:/dev/null", str(tmp_path / "missing")).seal(b"key")


class Policy(TpmUnlock):
    """One that says what it is told to."""

    answer: str | None = "the reason"

    def __init__(self, fails: Exception | None = None, answer: str | None = "the reason") -> None:
        object.__setattr__(self, "fails", fails)
        object.__setattr__(self, "answer", answer)
        object.__setattr__(self, "calls", [])

    def measure(self, *, pending: bool) -> None:
        """Take note."""
        self.calls.append(f"measure pending={pending}")

    def unlock(self) -> str | None:
        """Answer or fail."""
        self.calls.append("unlock")
        if self.fails:
            raise self.fails
        return self.answer

    def renew(self, known: bytes) -> None:
        """Take note or fail."""
        self.calls.append(f"renew {known.decode()}")
        if self.fails:
            raise self.fails

    calls: list[str]
    fails: Exception | None


def test_a_disk_that_the_tpm_does_not_unlock_says_why() -> None:
    told: list[str] = []
    policy = Policy(answer=None)
    assert opening.try_tpm(policy, told.append)
    assert policy.calls == ["measure pending=True", "unlock"]
    assert told == []
    assert not opening.try_tpm(Policy(answer=NOTHING_SEALED), told.append)
    assert "Type the passphrase: then it is given a key" in told.pop()
    no_boot = SeedError("the boot partition cannot be mounted")
    for broken in (None, Policy(), Policy(TpmError("locked out")), Policy(no_boot), Policy(DiskError("it has gone"))):
        assert not opening.try_tpm(broken, told.append)
    reasons = ("no TPM 2.0", "the reason", "locked out", "cannot be mounted", "has gone")
    for text, reason in zip(told, reasons, strict=True):
        assert reason in text
        assert "do not type it here" in text


def test_a_key_for_the_tpm_is_made_after_the_disk_is_measured_or_it_is_told() -> None:
    told: list[str] = []
    new, old = Policy(), Policy()
    opening.give_tpm(new, b"key", new=True, tell=told.append)
    opening.give_tpm(old, b"key", new=False, tell=told.append)
    assert new.calls == ["measure pending=False", "renew key"]
    assert old.calls == ["renew key"]
    assert told == []
    opening.give_tpm(None, b"key", new=True, tell=told.append)
    opening.give_tpm(Policy(TpmError("no.")), b"key", new=True, tell=told.append)
    assert "no TPM 2.0" in told[0]
    assert "no key was given to the TPM: no. The passphrase unlocks the disk." in told[1]
