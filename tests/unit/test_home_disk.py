"""`darkpipe disk` and `darkpipe recovery`: what is told of a disk, copies of its head, and whom the commands serve."""

from __future__ import annotations

import json
import subprocess
import uuid
from pathlib import Path

import pytest

from firstboot.data_place import Place, Record, keep_record
from firstboot.luks import Use
from firstboot.usb_key import Sticks
from home import disk_commands
from tests.unit.disk_device import OLD, OTHER, SECRET, Device


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Device:
    return Device(tmp_path, monkeypatch)


def test_a_locked_disk_has_a_status(device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk_commands, "_MAPPED", tmp_path / "nowhere")
    assert "encrypted, and locked: sudo darkpipe disk unlock" in device.run("disk", "status").output
    assert json.loads(device.run("disk", "status", "--json").output)["locked"] is True
    keep_record(tmp_path, Record(place=Place.SYSTEM, uuid=uuid.UUID(int=7), encrypted=True, making="data"))
    assert "not made yet" in device.run("disk", "status").output


def test_the_status_names_what_opens_it(device: Device, tmp_path: Path) -> None:
    told = json.loads(device.run("disk", "status", "--json").output)
    assert told["slots"] == [{"slot": 0, "use": "darkpipe-recovery"}, {"slot": 1, "use": "darkpipe-passphrase"}]
    device.header.slots[3] = b"by hand"
    assert "slot 3: something that DarkPipe has not made" in device.run("disk", "status").output
    keep_record(tmp_path, Record(place=Place.OTHER, uuid=uuid.UUID(int=7)))
    assert "NOT encrypted" in device.run("disk", "status").output
    assert "not encrypted" in device.run("disk", "add-key").output


def test_a_recovery_secret_is_checked(device: Device, tmp_path: Path) -> None:
    assert "This is the recovery secret" in device.run("recovery", "check", answers=(str(SECRET),)).output
    wrong = device.run("recovery", "check", answers=(str(OTHER),))
    assert (wrong.exit_code, "another disk's" in wrong.output) == (1, True)
    mistyped = device.run("recovery", "check", answers=("1" + str(SECRET)[1:],))
    assert (mistyped.exit_code, "checksum" in mistyped.output) == (1, True)
    (tmp_path / "queue-keys/recovery.pub").write_text(f"{OTHER.recipient}\n")
    assert "relay is another one's" in device.run("recovery", "check", answers=(str(SECRET),)).output


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


def test_a_stick_that_is_pulled_out_ends_no_status(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    device.luks.add(OLD.encode(), b"of a stick", Use.USB_KEY, None)

    def gone() -> tuple[Path, ...]:
        raise subprocess.CalledProcessError(32, ("lsblk",), "")

    monkeypatch.setattr(disk_commands, "Sticks", lambda: Sticks(gone))
    assert "slot 2: key on a USB stick\n" in device.run("disk", "status").output


def test_a_disk_that_is_being_made_is_left_alone(device: Device, tmp_path: Path) -> None:
    keep_record(tmp_path, Record(place=Place.SYSTEM, uuid=uuid.UUID(int=7), encrypted=True, making="data"))
    before = len(device.header.calls)
    for words in (("add-key",), ("revoke", "1"), ("change-policy", "passphrase"), ("header-backup", "/nowhere/head")):
        refused = device.run("disk", *words, answers=(OLD,))
        assert (refused.exit_code, "not made yet" in refused.output) == (1, True), refused.output
    assert len(device.header.calls) == before


@pytest.mark.parametrize("words", [("disk", "unlock"), ("disk", "status"), ("recovery", "check"), ("disk", "add-key")])
def test_who_is_not_root_is_told_so(device: Device, monkeypatch: pytest.MonkeyPatch, words: tuple[str, str]) -> None:
    """Else `unlock`, whom the socket does not hear, would say that nothing is locked."""
    monkeypatch.setattr(disk_commands, "_user", lambda: 1000)
    refused = device.run(*words)
    assert (refused.exit_code, f"for root: sudo darkpipe {' '.join(words)}" in refused.output) == (1, True)
