"""`darkpipe disk change-policy`: the TPM, a stick or the relay helps to unlock, or the passphrase alone does it."""

from __future__ import annotations

import json
import uuid
from pathlib import Path

import pytest

from bootstrap.ends import make_bootstrap
from firstboot.costs import Costs
from firstboot.data_place import Place, Record, keep_record
from firstboot.luks import Luks, Slot, Use
from home import boot_stage, disk_commands, disk_status
from model.site import Relay
from model.tunnel import HomeEnd
from tests.unit.disk_device import OLD, SECRET, Device
from tests.unit.test_firstboot_usb_key import Plugged
from tests.unit.unlock_samples import some_unlock_keys


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Device:
    return Device(tmp_path, monkeypatch)


def test_the_tpm_is_wished_for_and_forgotten(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk_commands, "open_tpm", lambda: None)
    refused = device.run("disk", "change-policy", "tpm2", answers=(OLD,))
    assert refused.exit_code == 1
    assert "This device has no TPM 2.0" in refused.output
    assert device.answers == [OLD], "before anybody types"
    monkeypatch.setattr(disk_commands, "why_unfit", lambda _: None)
    assert device.run("disk", "change-policy", "tpm2", answers=("wrong",)).exit_code == 1
    assert device.luks.tokens(Use.TPM2) == ()
    wished = device.run("disk", "change-policy", "tpm2", answers=(OLD,))
    assert (wished.exit_code, "At the next start" in wished.output) == (0, True), wished.output
    status = device.run("disk", "status").output
    assert "policy tpm2" in status
    assert "The TPM has no key yet" in status
    assert "policy already" in device.run("disk", "change-policy", "tpm2").output
    (token,) = device.luks.tokens(Use.TPM2)
    slot = device.luks.add_unnamed(OLD.encode(), b"sealed", None)
    device.luks.keep_token(Use.TPM2, (slot,), {"sealed": ""}, token)
    assert f"slot {slot}: key that this device's TPM gives out" in device.run("disk", "status").output
    back = device.run("disk", "change-policy", "passphrase", answers=(OLD,))
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
    added = device.run("disk", "change-policy", "usb-key", answers=(OLD,))
    assert (added.exit_code, "slot 2" in added.output) == (0, True), added.output
    assert json.loads(device.run("disk", "status", "--json").output)["policy"] == "usb-key"
    assert "policy already; another stick" in device.run("disk", "change-policy", "usb-key").output
    assert "unlocks this disk already" in device.run("disk", "add-key", "--usb-stick", answers=(OLD,)).output
    (key,) = plugged.sticks.keys(uuid.UUID(int=7))
    refused = device.run("disk", "revoke", "1", answers=(key.hex(),))
    assert "no slot that would remain" in refused.output, "with the stick lost, only the recovery secret would be left"
    other = tmp_path / "other"
    other.mkdir()
    plugged.folders = [other]
    assert device.run("disk", "add-key", "--usb-stick", answers=(str(SECRET),)).exit_code == 0
    assert [slot.use for slot in device.luks.slots()][2:] == [Use.USB_KEY, Use.USB_KEY]
    assert "no slot that would remain" in device.run("disk", "change-policy", "passphrase", answers=("wrong",)).output
    assert len(device.luks.slots()) == 4
    assert device.run("disk", "change-policy", "passphrase", answers=(OLD,)).exit_code == 0
    assert device.luks.slots() == (Slot(0, Use.RECOVERY), Slot(1, Use.PASSPHRASE))
    plugged.folders = []
    none = device.run("disk", "change-policy", "usb-key")
    assert (none.exit_code, "no USB stick" in none.output) == (1, True)


@pytest.mark.parametrize("words", [("change-policy", "passphrase"), ("revoke", "2")])
def test_the_relays_help_that_cannot_be_ended_keeps_its_slot(
    device: Device, monkeypatch: pytest.MonkeyPatch, words: tuple[str, str]
) -> None:
    """Without the slot nothing would say any more that there is help to be ended."""
    device.luks.add(OLD.encode(), b"by the relay", Use.RELAY, None)

    def fail(_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(disk_commands, "forget_relay", fail)
    refused = device.run("disk", *words, answers=(OLD,))
    assert (refused.exit_code, "No space left" in refused.output) == (1, True), refused.output
    assert "policy relay" in device.run("disk", "status").output
    monkeypatch.setattr(disk_commands, "forget_relay", lambda _: None)
    again = device.run("disk", *words, answers=(OLD,))
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
    added = device.run("disk", "change-policy", "relay", answers=(OLD,))
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
    again = device.run("disk", "change-policy", "relay", answers=(OLD,))
    assert again.exit_code == 0, again.output
    assert device.luks.slots() == (Slot(0, Use.RECOVERY), Slot(1, Use.PASSPHRASE), Slot(3, Use.RELAY))
    # A cut before the key of the card of before was destroyed, which whoever has found that card could have decrypted.
    device.luks.add(OLD.encode(), b"of the card of before", Use.RELAY, None)
    assert device.run("disk", "change-policy", "relay", answers=(OLD,)).exit_code == 0
    assert [slot.use for slot in device.luks.slots()].count(Use.RELAY) == 1
    assert not device.luks.fits(b"of the card of before", Use.RELAY)
    (left,) = (str(slot.number) for slot in device.luks.slots() if slot.use is Use.RELAY)
    assert "no slot that would remain" in device.run("disk", "revoke", left, answers=("wrong",)).output
    assert stage.exists(), "refused, and nothing changed"
    assert device.run("disk", "change-policy", "passphrase", answers=(OLD,)).exit_code == 0
    assert device.luks.slots() == (Slot(0, Use.RECOVERY), Slot(1, Use.PASSPHRASE))
    assert not stage.exists()


def _refuse_mtls(_: Path) -> None:
    raise boot_stage.BootStageError("the tunnel is OpenVPN's")


def test_back_to_the_passphrase_destroys_what_a_cut_has_left(device: Device) -> None:
    """A stick's key without a name opens the disk, and the policy is the passphrase by then."""
    device.luks.add_unnamed(OLD.encode(), b"of a stick that is lost", None)
    by_hand = device.luks.add_unnamed(OLD.encode(), b"by hand", Costs(65536, 4, 1))
    status = device.run("disk", "status").output
    assert "policy passphrase" in status
    assert "slot 2: what a command that was cut off has left" in status
    assert f"slot {by_hand}: something that DarkPipe has not made" in status
    ended = device.run("disk", "change-policy", "passphrase", answers=(OLD,))
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
    ended = device.run("disk", "change-policy", "passphrase", answers=(OLD,))
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
