"""`darkpipe disk` and `darkpipe recovery`: keys come and go, and one that opens always remains."""

from __future__ import annotations

import json
import subprocess
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bootstrap.ends import make_bootstrap
from firstboot.cipher import AES_XTS
from firstboot.costs import Costs
from firstboot.data_place import Place, Record, keep_record
from firstboot.luks import Luks, Slot, Use
from firstboot.recovery import RecoverySecret
from firstboot.unlock_dialog import GoneError, Tty
from firstboot.usb_key import Sticks
from home import boot_stage, disk_commands, disk_status
from home.cli import main
from model.site import Relay
from model.tunnel import HomeEnd
from tests.unit.test_firstboot_luks import Header2
from tests.unit.test_firstboot_usb_key import Plugged
from tests.unit.unlock_samples import some_unlock_keys

_OLD, _NEW = "eleven quiet geese", "nineteen loud geese"
_SECRET, _OTHER = RecoverySecret(bytes(16)), RecoverySecret(bytes(range(16)))


class Device:
    """A device with an unlocked disk, and somebody who types."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.header = Header2()
        self.luks = Luks(Path("/dev/sda1"), self.header)
        self.luks.format(uuid.UUID(int=7), AES_XTS, _SECRET.disk_key, Use.RECOVERY)
        self.luks.add(_SECRET.disk_key, _OLD.encode(), Use.PASSPHRASE, Costs(65536, 4, 1))
        keep_record(folder, Record(place=Place.SYSTEM, uuid=uuid.UUID(int=7), encrypted=True))
        (folder / "queue-keys").mkdir()
        (folder / "queue-keys/recovery.pub").write_text(f"{_SECRET.recipient}\n")
        (folder / "unlock").mkdir()
        self.answers: list[str] = []
        monkeypatch.setattr(disk_commands, "_STATE", folder)
        monkeypatch.setattr(disk_commands, "_DATA", folder)
        monkeypatch.setattr(disk_commands, "_MAPPED", folder)
        monkeypatch.setattr(disk_commands, "_LOCK", folder / "lock")
        monkeypatch.setattr(disk_commands, "today", lambda: "2026-11-26")
        monkeypatch.setattr(disk_commands, "_user", lambda: 0)
        monkeypatch.setattr(disk_commands, "mapped_partition", lambda: Path("/dev/sda1"))
        monkeypatch.setattr(disk_commands, "Luks", lambda _: self.luks)
        monkeypatch.setattr(Tty, "ask", self._ask)

    def run(self, *words: str, answers: tuple[str, ...] = ()) -> Result:
        self.answers = list(answers)
        return CliRunner().invoke(main, words)

    def _ask(self, _question: str, *, hidden: bool, until: Callable[[], bool]) -> str | None:
        assert hidden, "nobody reads it over somebody's shoulder"
        assert not until()
        if not self.answers:
            raise GoneError
        return self.answers.pop(0)


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Device:
    """A device."""
    return Device(tmp_path, monkeypatch)


def test_a_passphrase_is_changed(device: Device) -> None:
    added = device.run("disk", "add-key", answers=(_OLD, _NEW, _NEW))
    assert (added.exit_code, "slot 2" in added.output) == (0, True)
    assert device.luks.fits(_OLD.encode(), Use.PASSPHRASE)
    assert device.luks.fits(_NEW.encode(), Use.PASSPHRASE)
    revoked = device.run("disk", "revoke", "1", answers=(_NEW,))
    assert revoked.exit_code == 0, revoked.output
    assert not device.luks.fits(_OLD.encode(), Use.PASSPHRASE)
    assert device.luks.slots() == (Slot(0, Use.RECOVERY), Slot(2, Use.PASSPHRASE))


def test_the_tpm_is_wished_for_and_forgotten(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk_commands, "open_tpm", lambda: None)
    refused = device.run("disk", "change-policy", "tpm2", answers=(_OLD,))
    assert refused.exit_code == 1
    assert "This device has no TPM 2.0" in refused.output
    assert device.answers == [_OLD], "before anybody types"
    monkeypatch.setattr(disk_commands, "why_unfit", lambda _: None)
    assert device.run("disk", "change-policy", "tpm2", answers=("wrong",)).exit_code == 1
    assert device.luks.tokens(Use.TPM2) == ()
    wished = device.run("disk", "change-policy", "tpm2", answers=(_OLD,))
    assert (wished.exit_code, "At the next start" in wished.output) == (0, True), wished.output
    status = device.run("disk", "status").output
    assert "policy tpm2" in status
    assert "The TPM has no key yet" in status
    assert "policy already" in device.run("disk", "change-policy", "tpm2").output
    (token,) = device.luks.tokens(Use.TPM2)
    slot = device.luks.add_unnamed(_OLD.encode(), b"sealed", None)
    device.luks.keep_token(Use.TPM2, (slot,), {"sealed": ""}, token)
    assert f"slot {slot}: key that this device's TPM gives out" in device.run("disk", "status").output
    back = device.run("disk", "change-policy", "passphrase", answers=(_OLD,))
    assert back.exit_code == 0, back.output
    assert device.luks.tokens(Use.TPM2) == ()
    assert [found.use for found in device.luks.slots()] == [Use.RECOVERY, Use.PASSPHRASE]


def test_a_stick_comes_and_goes(device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stick = tmp_path / "stick"
    stick.mkdir()
    plugged = Plugged(stick)
    monkeypatch.setattr(disk_commands, "Sticks", lambda: plugged.sticks)
    assert "(/dev/sda1; policy passphrase)" in device.run("disk", "status").output
    assert "policy already" in device.run("disk", "change-policy", "passphrase").output
    added = device.run("disk", "change-policy", "usb-key", answers=(_OLD,))
    assert (added.exit_code, "slot 2" in added.output) == (0, True), added.output
    assert json.loads(device.run("disk", "status", "--json").output)["policy"] == "usb-key"
    assert "policy already; another stick" in device.run("disk", "change-policy", "usb-key").output
    assert "unlocks this disk already" in device.run("disk", "add-key", "--usb-stick", answers=(_OLD,)).output
    (key,) = plugged.sticks.keys(uuid.UUID(int=7))
    refused = device.run("disk", "revoke", "1", answers=(key.hex(),))
    assert "no slot that would remain" in refused.output, "with the stick lost, only the recovery secret would be left"
    other = tmp_path / "other"
    other.mkdir()
    plugged.folders = [other]
    assert device.run("disk", "add-key", "--usb-stick", answers=(str(_SECRET),)).exit_code == 0
    assert [slot.use for slot in device.luks.slots()][2:] == [Use.USB_KEY, Use.USB_KEY]
    assert "no slot that would remain" in device.run("disk", "change-policy", "passphrase", answers=("wrong",)).output
    assert len(device.luks.slots()) == 4
    assert device.run("disk", "change-policy", "passphrase", answers=(_OLD,)).exit_code == 0
    assert device.luks.slots() == (Slot(0, Use.RECOVERY), Slot(1, Use.PASSPHRASE))
    plugged.folders = []
    none = device.run("disk", "change-policy", "usb-key")
    assert (none.exit_code, "no USB stick" in none.output) == (1, True)


@pytest.mark.parametrize("words", [("change-policy", "passphrase"), ("revoke", "2")])
def test_the_relays_help_that_cannot_be_ended_keeps_its_slot(
    device: Device, monkeypatch: pytest.MonkeyPatch, words: tuple[str, str]
) -> None:
    """Without the slot nothing would say any more that there is help to be ended."""
    device.luks.add(_OLD.encode(), b"by the relay", Use.RELAY, None)

    def fail(_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(disk_commands, "forget_relay", fail)
    refused = device.run("disk", *words, answers=(_OLD,))
    assert (refused.exit_code, "No space left" in refused.output) == (1, True), refused.output
    assert "policy relay" in device.run("disk", "status").output
    monkeypatch.setattr(disk_commands, "forget_relay", lambda _: None)
    again = device.run("disk", *words, answers=(_OLD,))
    assert again.exit_code == 0, again.output
    assert device.luks.slots() == (Slot(0, Use.RECOVERY), Slot(1, Use.PASSPHRASE))


def test_the_relays_help_comes_and_goes(device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = tmp_path / "unlock/relay.json"
    home_end = make_bootstrap(Relay(address="192.0.2.1")).home
    assert isinstance(home_end, HomeEnd)

    def add(luks: Luks, disk: uuid.UUID, known: bytes, *_: object) -> Slot:
        boot_stage.write(
            some_unlock_keys(disk).for_state(home_end, (home_end.relay_key,), ("192.0.2.1",), "sealed"), stage
        )
        return luks.add(known, f"key {len(luks.slots())}".encode(), Use.RELAY, None)

    assert "not paired" in device.run("disk", "change-policy", "relay").output
    monkeypatch.setattr(disk_commands, "paired", lambda _: None)
    monkeypatch.setattr(disk_status, "paired", lambda _: None)
    monkeypatch.setattr(disk_commands, "add_relay", add)
    added = device.run("disk", "change-policy", "relay", answers=(_OLD,))
    assert (added.exit_code, "slot 2" in added.output) == (0, True), added.output
    told = json.loads(device.run("disk", "status", "--json").output)
    assert (told["policy"], told["relay_helps"]) == ("relay", True)
    assert "NOT" not in device.run("disk", "status").output
    with monkeypatch.context() as patch:
        patch.setattr(disk_status, "paired", _refuse_mtls)
        assert "may NOT help at the next start: the tunnel is OpenVPN's" in device.run("disk", "status").output
    assert "policy already" in device.run("disk", "change-policy", "relay").output
    # The card with `state` was replaced: the slot is there, and what decrypts its key is not.
    stage.write_text("torn")
    assert "may NOT help at the next start: " in (torn := device.run("disk", "status").output)
    assert "`darkpipe disk change-policy passphrase` ends it" in torn
    stage.unlink()
    assert "Once home is paired: darkpipe disk change-policy relay" in device.run("disk", "status").output
    (tmp_path / "unlock/waiting.json").touch()
    assert "does NOT help yet. It will once home is paired" in device.run("disk", "status").output
    (tmp_path / "unlock/waiting.json").unlink()
    again = device.run("disk", "change-policy", "relay", answers=(_OLD,))
    assert again.exit_code == 0, again.output
    assert device.luks.slots() == (Slot(0, Use.RECOVERY), Slot(1, Use.PASSPHRASE), Slot(3, Use.RELAY))
    # A cut before the key of the card of before was destroyed, which whoever has found that card could have decrypted.
    device.luks.add(_OLD.encode(), b"of the card of before", Use.RELAY, None)
    assert device.run("disk", "change-policy", "relay", answers=(_OLD,)).exit_code == 0
    assert [slot.use for slot in device.luks.slots()].count(Use.RELAY) == 1
    assert not device.luks.fits(b"of the card of before", Use.RELAY)
    (left,) = (str(slot.number) for slot in device.luks.slots() if slot.use is Use.RELAY)
    assert "no slot that would remain" in device.run("disk", "revoke", left, answers=("wrong",)).output
    assert stage.exists(), "refused, and nothing changed"
    assert device.run("disk", "change-policy", "passphrase", answers=(_OLD,)).exit_code == 0
    assert device.luks.slots() == (Slot(0, Use.RECOVERY), Slot(1, Use.PASSPHRASE))
    assert not stage.exists()


def _refuse_mtls(_: Path) -> None:
    raise boot_stage.BootStageError("the tunnel is OpenVPN's")


def test_back_to_the_passphrase_destroys_what_a_cut_has_left(device: Device) -> None:
    """A stick's key without a name opens the disk, and the policy is the passphrase by then."""
    device.luks.add_unnamed(_OLD.encode(), b"of a stick that is lost", None)
    by_hand = device.luks.add_unnamed(_OLD.encode(), b"by hand", Costs(65536, 4, 1))
    status = device.run("disk", "status").output
    assert "policy passphrase" in status
    assert "slot 2: what a command that was cut off has left" in status
    assert f"slot {by_hand}: something that DarkPipe has not made" in status
    ended = device.run("disk", "change-policy", "passphrase", answers=(_OLD,))
    assert ended.exit_code == 0, ended.output
    assert [slot.number for slot in device.luks.slots()] == [0, 1, by_hand], "a person's own stays"
    assert "policy already" in device.run("disk", "change-policy", "passphrase").output


@pytest.mark.parametrize("left", ["pairing/unlock.json", "unlock/relay.json", "unlock/waiting.json"])
def test_back_to_the_passphrase_ends_the_relays_help_that_has_no_slot(
    device: Device, tmp_path: Path, left: str
) -> None:
    (path := tmp_path / left).parent.mkdir(exist_ok=True)
    path.write_text("whatever a cut has left")
    (partial := tmp_path / "unlock/.relay.json.new").touch()
    ended = device.run("disk", "change-policy", "passphrase", answers=(_OLD,))
    assert ended.exit_code == 0, ended.output
    assert not path.exists()
    assert not partial.exists(), "on `state`, half a file holds as much"
    assert "policy already" in device.run("disk", "change-policy", "passphrase").output


def test_no_encryption_is_refused_with_a_reason(device: Device, tmp_path: Path) -> None:
    refused = device.run("disk", "change-policy", "none")
    assert (refused.exit_code, "from its first start on" in refused.output) == (1, True), refused.output
    keep_record(tmp_path, Record(place=Place.SYSTEM, uuid=uuid.UUID(int=7)))
    other_way = device.run("disk", "change-policy", "passphrase")
    assert (other_way.exit_code, "from its first start on" in other_way.output) == (1, True), other_way.output


def test_a_locked_disk_has_a_status(device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk_commands, "_MAPPED", tmp_path / "nowhere")
    assert "encrypted, and locked: sudo darkpipe disk unlock" in device.run("disk", "status").output
    assert json.loads(device.run("disk", "status", "--json").output)["locked"] is True
    keep_record(tmp_path, Record(place=Place.SYSTEM, uuid=uuid.UUID(int=7), encrypted=True, making="data"))
    assert "not made yet" in device.run("disk", "status").output


def test_who_has_forgotten_the_passphrase_sets_one_by_the_recovery_secret(device: Device) -> None:
    assert device.run("disk", "add-key", answers=(str(_SECRET).lower(), _NEW, _NEW)).exit_code == 0
    assert device.luks.fits(_NEW.encode(), Use.PASSPHRASE)


@pytest.mark.parametrize(
    ("words", "answers", "complaint"),
    [
        (("add-key",), ("wrong wrong wrong",), "neither the passphrase"),
        (("add-key",), (str(_OTHER),), "neither the passphrase"),
        (("add-key",), (_OLD, "short"), "5 characters"),
        (("add-key",), (_OLD, _OLD), "works already"),
        (("add-key",), (_OLD, _NEW, "another one"), "two different"),
        (("add-key",), (_OLD, _NEW), "othing was typed"),
        (("revoke", "7"), (), "no slot 7; found: 0, 1"),
        (("revoke", "0"), (), "recovery secret stays"),
        (("revoke", "1"), (_OLD,), "no slot that would remain"),
        (("revoke", "1"), (str(_SECRET),), "no slot that would remain"),
    ],
)
def test_what_is_refused_changes_nothing(
    device: Device, words: tuple[str, ...], answers: tuple[str, ...], complaint: str
) -> None:
    before = dict(device.header.slots)
    refused = device.run("disk", *words, answers=answers)
    assert refused.exit_code == 1
    assert complaint in refused.output
    assert device.header.slots == before


def test_the_status_names_what_opens_it(device: Device, tmp_path: Path) -> None:
    told = json.loads(device.run("disk", "status", "--json").output)
    assert told["slots"] == [{"slot": 0, "use": "darkpipe-recovery"}, {"slot": 1, "use": "darkpipe-passphrase"}]
    device.header.slots[3] = b"by hand"
    assert "slot 3: something that DarkPipe has not made" in device.run("disk", "status").output
    keep_record(tmp_path, Record(place=Place.OTHER, uuid=uuid.UUID(int=7)))
    assert "NOT encrypted" in device.run("disk", "status").output
    assert "not encrypted" in device.run("disk", "add-key").output


def test_a_recovery_secret_is_checked(device: Device, tmp_path: Path) -> None:
    assert "This is the recovery secret" in device.run("recovery", "check", answers=(str(_SECRET),)).output
    wrong = device.run("recovery", "check", answers=(str(_OTHER),))
    assert (wrong.exit_code, "another disk's" in wrong.output) == (1, True)
    mistyped = device.run("recovery", "check", answers=("1" + str(_SECRET)[1:],))
    assert (mistyped.exit_code, "checksum" in mistyped.output) == (1, True)
    (tmp_path / "queue-keys/recovery.pub").write_text(f"{_OTHER.recipient}\n")
    assert "relay is another one's" in device.run("recovery", "check", answers=(str(_SECRET),)).output


@pytest.mark.parametrize(
    ("name", "complaint"),
    [("there", "is there already"), ("data/head", "very disk"), ("state/head", "any thief"), ("away/head", "No such")],
)
def test_a_header_is_not_written_where_it_is_of_no_use(
    device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, complaint: str
) -> None:
    (tmp_path / "there").write_text("precious")
    for constant, folder in (("_DATA", tmp_path / "data"), ("_STATE", tmp_path / "state")):
        folder.mkdir()
        monkeypatch.setattr(disk_commands, constant, folder)
    keep_record(tmp_path / "state", Record(place=Place.SYSTEM, uuid=uuid.UUID(int=7), encrypted=True))
    refused = device.run("disk", "header-backup", str(tmp_path / name))
    assert (refused.exit_code, complaint in refused.output) == (1, True), refused.output
    assert (tmp_path / "there").read_text() == "precious"
    assert not list(tmp_path.rglob("*head*"))


def test_a_header_is_copied_whole_or_not_at_all(
    device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for constant in ("_DATA", "_STATE"):
        monkeypatch.setattr(disk_commands, constant, tmp_path / constant)
    (tmp_path / "_STATE").mkdir()
    keep_record(tmp_path / "_STATE", Record(place=Place.SYSTEM, uuid=uuid.UUID(int=7), encrypted=True))
    device.header.full = True
    failed = device.run("disk", "header-backup", str(tmp_path / "head"))
    assert (failed.exit_code, "what went wrong" in failed.output) == (1, True), failed.output
    assert not list(tmp_path.glob("*head*"))
    assert not list(tmp_path.glob(".*head*"))
    device.header.full = False
    assert device.run("disk", "header-backup", str(tmp_path / "head")).exit_code == 0
    assert (tmp_path / "head").read_bytes() == b"head"


def test_two_keys_of_one_kind_are_told_from_each_other(
    device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody revokes the right one of two that look alike; and the head, which any thief reads, says no more."""
    plugged = Plugged(tmp_path / "one", tmp_path / "two")
    for folder in plugged.folders:
        folder.mkdir()
    monkeypatch.setattr(disk_commands, "Sticks", lambda: plugged.sticks)
    one, two = plugged.folders
    for stick, day in ((one, "2026-11-26"), (two, "")):
        plugged.folders = [stick]
        monkeypatch.setattr(disk_commands, "today", lambda day=day: day)
        assert device.run("disk", "add-key", "--usb-stick", answers=(_OLD,)).exit_code == 0
    plugged.folders = [one]
    status = device.run("disk", "status").output
    assert "slot 2: key on a USB stick (Model one, added on 2026-11-26; plugged in now)\n" in status
    assert "slot 3: key on a USB stick (Model two)\n" in status
    monkeypatch.setattr(disk_commands, "today", lambda: "2026-12-01")
    assert device.run("disk", "add-key", answers=(_OLD, _NEW, _NEW)).exit_code == 0
    assert "slot 1: passphrase\n" in (status := device.run("disk", "status").output)
    assert "slot 4: passphrase (added on 2026-12-01)\n" in status
    rows = json.loads(device.run("disk", "status", "--json").output)["slots"]
    assert rows[2] == {
        "slot": 2,
        "use": "darkpipe-usb-key",
        "added": "2026-11-26",
        "stick": "Model one",
        "plugged_in": True,
    }
    head = json.dumps(device.header.tokens)
    assert "Model" not in head
    assert "2026" not in head
    # Another key in the same place has a note of its own, or none.
    assert device.run("disk", "revoke", "2", answers=(_OLD,)).exit_code == 0
    device.luks.add(_OLD.encode(), b"another", Use.USB_KEY, None)
    assert "slot 2: key on a USB stick\n" in device.run("disk", "status").output
    (notes := tmp_path / "unlock/keys.json").write_text("torn")
    assert "slot 3: key on a USB stick\n" in device.run("disk", "status").output
    notes.unlink()
    notes.mkdir()  # nothing can be written there, as on a full disk
    third = "another twelve characters"
    assert device.run("disk", "add-key", answers=(_OLD, third, third)).exit_code == 0
    assert device.luks.fits(third.encode(), Use.PASSPHRASE)


def test_a_stick_that_is_pulled_out_ends_no_status(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    device.luks.add(_OLD.encode(), b"of a stick", Use.USB_KEY, None)

    def gone() -> tuple[Path, ...]:
        raise subprocess.CalledProcessError(32, ("lsblk",), "")

    monkeypatch.setattr(disk_commands, "Sticks", lambda: Sticks(gone))
    assert "slot 2: key on a USB stick\n" in device.run("disk", "status").output


def test_one_command_changes_keys_at_a_time(device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two that revoke each other's passphrase would leave none; each has seen that one remains."""
    assert device.run("disk", "add-key", answers=(_OLD, _NEW, _NEW)).exit_code == 0
    inner: list[Result] = []
    status: list[str] = []
    device.luks.add(_OLD.encode(), bytes(32), Use.USB_KEY, None)
    (stick := tmp_path / "stick").mkdir()
    (stick / f"darkpipe-{uuid.UUID(int=7)}.key").write_text(bytes(32).hex())
    plugged = Plugged(stick)
    monkeypatch.setattr(disk_commands, "Sticks", lambda: plugged.sticks)
    assert "slot 3: key on a USB stick (plugged in now)" in device.run("disk", "status").output
    plugged.mounts.clear()

    def meanwhile(*_: object, **__: object) -> str:
        monkeypatch.setattr(Tty, "ask", lambda *_, **__: _NEW)
        status.append(device.run("disk", "status").output)
        inner.extend(device.run("disk", *words) for words in (("revoke", "1"), ("add-key",), ("change-policy", "tpm2")))
        return _OLD

    monkeypatch.setattr(Tty, "ask", meanwhile)
    assert device.run("disk", "revoke", "2").exit_code == 0
    assert "slot 3: key on a USB stick\n" in status[0]
    assert plugged.mounts == [], "a command may be writing to the stick"
    assert [result.exit_code for result in inner] == [1, 1, 1]
    assert all("nother `darkpipe disk` command is under way" in result.output for result in inner)
    assert device.luks.slots() == (Slot(0, Use.RECOVERY), Slot(1, Use.PASSPHRASE), Slot(3, Use.USB_KEY))
    monkeypatch.setattr(Tty, "ask", device._ask)
    assert device.run("disk", "add-key", answers=(_OLD, _NEW, _NEW)).exit_code == 0, "it keeps nobody away for good"


def test_a_passphrase_whose_command_was_cut_off_gets_its_name(device: Device) -> None:
    device.luks.add_unnamed(_OLD.encode(), _NEW.encode(), Costs(65536, 4, 1))
    assert "slot 2: something that DarkPipe has not made, or" in device.run("disk", "status").output
    again = device.run("disk", "add-key", answers=(_OLD, _NEW))
    assert (again.exit_code, "slot 2" in again.output) == (0, True), again.output
    assert "slot 2: passphrase (added on 2026-11-26)\n" in device.run("disk", "status").output


def test_a_disk_that_is_being_made_is_left_alone(device: Device, tmp_path: Path) -> None:
    keep_record(tmp_path, Record(place=Place.SYSTEM, uuid=uuid.UUID(int=7), encrypted=True, making="data"))
    before = len(device.header.calls)
    for words in (("add-key",), ("revoke", "1"), ("change-policy", "passphrase"), ("header-backup", "/nowhere/head")):
        refused = device.run("disk", *words, answers=(_OLD,))
        assert (refused.exit_code, "not made yet" in refused.output) == (1, True), refused.output
    assert len(device.header.calls) == before


@pytest.mark.parametrize("words", [("disk", "unlock"), ("disk", "status"), ("recovery", "check"), ("disk", "add-key")])
def test_who_is_not_root_is_told_so(device: Device, monkeypatch: pytest.MonkeyPatch, words: tuple[str, str]) -> None:
    """Else `unlock`, whom the socket does not hear, would say that nothing is locked."""
    monkeypatch.setattr(disk_commands, "_user", lambda: 1000)
    refused = device.run(*words)
    assert (refused.exit_code, f"for root: sudo darkpipe {' '.join(words)}" in refused.output) == (1, True)
