"""`darkpipe disk add-key` and `revoke`: keys come and go, and one that opens always remains."""

from __future__ import annotations

import json
import uuid
from pathlib import Path

import pytest
from click.testing import Result

from firstboot.costs import Costs
from firstboot.luks import Slot, Use
from firstboot.unlock_dialog import Tty
from home import disk_commands
from tests.unit.disk_device import NEW, OLD, OTHER, SECRET, Device
from tests.unit.test_firstboot_usb_key import Plugged


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Device:
    return Device(tmp_path, monkeypatch)


def test_a_passphrase_is_changed(device: Device) -> None:
    added = device.run("disk", "add-key", answers=(OLD, NEW, NEW))
    assert (added.exit_code, "slot 2" in added.output) == (0, True)
    assert device.luks.fits(OLD.encode(), Use.PASSPHRASE)
    assert device.luks.fits(NEW.encode(), Use.PASSPHRASE)
    revoked = device.run("disk", "revoke", "1", answers=(NEW,))
    assert revoked.exit_code == 0, revoked.output
    assert not device.luks.fits(OLD.encode(), Use.PASSPHRASE)
    assert device.luks.slots() == (Slot(0, Use.RECOVERY), Slot(2, Use.PASSPHRASE))


def test_who_has_forgotten_the_passphrase_sets_one_by_the_recovery_secret(device: Device) -> None:
    assert device.run("disk", "add-key", answers=(str(SECRET).lower(), NEW, NEW)).exit_code == 0
    assert device.luks.fits(NEW.encode(), Use.PASSPHRASE)


@pytest.mark.parametrize(
    ("words", "answers", "complaint"),
    [
        (("add-key",), ("wrong wrong wrong",), "neither the passphrase"),
        (("add-key",), (str(OTHER),), "neither the passphrase"),
        (("add-key",), (OLD, "short"), "5 characters"),
        (("add-key",), (OLD, OLD), "works already"),
        (("add-key",), (OLD, NEW, "another one"), "two different"),
        (("add-key",), (OLD, NEW), "othing was typed"),
        (("revoke", "7"), (), "no slot 7; found: 0, 1"),
        (("revoke", "0"), (), "recovery secret stays"),
        (("revoke", "1"), (OLD,), "no slot that would remain"),
        (("revoke", "1"), (str(SECRET),), "the recovery secret adds a new one: sudo darkpipe disk add-key"),
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
        assert device.run("disk", "add-key", "--usb-stick", answers=(OLD,)).exit_code == 0
    plugged.folders = [one]
    status = device.run("disk", "status").output
    assert "slot 2: key on a USB stick (Model one, added on 2026-11-26; plugged in now)\n" in status
    assert "slot 3: key on a USB stick (Model two)\n" in status
    monkeypatch.setattr(disk_commands, "today", lambda: "2026-12-01")
    assert device.run("disk", "add-key", answers=(OLD, NEW, NEW)).exit_code == 0
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
    assert device.run("disk", "revoke", "2", answers=(OLD,)).exit_code == 0
    device.luks.add(OLD.encode(), b"another", Use.USB_KEY, None)
    assert "slot 2: key on a USB stick\n" in device.run("disk", "status").output
    (notes := tmp_path / "unlock/keys.json").write_text("torn")
    assert "slot 3: key on a USB stick\n" in device.run("disk", "status").output
    notes.unlink()
    notes.mkdir()  # nothing can be written there, as on a full disk
    third = "another twelve characters"
    assert device.run("disk", "add-key", answers=(OLD, third, third)).exit_code == 0
    assert device.luks.fits(third.encode(), Use.PASSPHRASE)


def test_one_command_changes_keys_at_a_time(device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two that revoke each other's passphrase would leave none; each has seen that one remains."""
    assert device.run("disk", "add-key", answers=(OLD, NEW, NEW)).exit_code == 0
    inner: list[Result] = []
    status: list[str] = []
    device.luks.add(OLD.encode(), bytes(32), Use.USB_KEY, None)
    (stick := tmp_path / "stick").mkdir()
    (stick / f"darkpipe-{uuid.UUID(int=7)}.key").write_text(bytes(32).hex())
    plugged = Plugged(stick)
    monkeypatch.setattr(disk_commands, "Sticks", lambda: plugged.sticks)
    assert "slot 3: key on a USB stick (plugged in now)" in device.run("disk", "status").output
    plugged.mounts.clear()

    def meanwhile(*_: object, **__: object) -> str:
        monkeypatch.setattr(Tty, "ask", lambda *_, **__: NEW)
        status.append(device.run("disk", "status").output)
        inner.extend(device.run("disk", *words) for words in (("revoke", "1"), ("add-key",), ("change-policy", "tpm2")))
        return OLD

    monkeypatch.setattr(Tty, "ask", meanwhile)
    assert device.run("disk", "revoke", "2").exit_code == 0
    assert "slot 3: key on a USB stick\n" in status[0]
    assert plugged.mounts == [], "a command may be writing to the stick"
    assert [result.exit_code for result in inner] == [1, 1, 1]
    assert all("nother `darkpipe disk` command is under way" in result.output for result in inner)
    assert device.luks.slots() == (Slot(0, Use.RECOVERY), Slot(1, Use.PASSPHRASE), Slot(3, Use.USB_KEY))
    monkeypatch.setattr(Tty, "ask", device._ask)
    assert device.run("disk", "add-key", answers=(OLD, NEW, NEW)).exit_code == 0, "it keeps nobody away for good"


def test_a_passphrase_whose_command_was_cut_off_gets_its_name(device: Device) -> None:
    device.luks.add_unnamed(OLD.encode(), NEW.encode(), Costs(65536, 4, 1))
    assert "slot 2: something that DarkPipe has not made, or" in device.run("disk", "status").output
    again = device.run("disk", "add-key", answers=(OLD, NEW))
    assert (again.exit_code, "slot 2" in again.output) == (0, True), again.output
    assert "slot 2: passphrase (added on 2026-11-26)\n" in device.run("disk", "status").output
