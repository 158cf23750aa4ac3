"""The disk that is made or unlocked is the one that was looked at: it may be exchanged while a person is waited for."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from uuid import UUID

import pytest

from firstboot import opening
from firstboot.cipher import AES_XTS
from firstboot.costs import Costs
from firstboot.data_place import Place, Record
from firstboot.door import Door
from firstboot.luks import Luks, LuksError, Use
from firstboot.luks_head import Header
from firstboot.opening import Places
from firstboot.partitions import DiskError
from firstboot.recovery import RecoverySecret
from firstboot.vault import Machine, Vault
from tests.unit.test_firstboot_luks import CONTAINER, PASSPHRASE, Header2, a_container

_PARTITION = "0f0f0f0f-0000-4000-8000-000000000001"


class Plugged:
    """What is plugged in as /dev/sda1 by now."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.header = Header2()
        self.luks = a_container(self.header)
        self.partition: str | None = _PARTITION
        self.found: Header | None = Header(CONTAINER, "darkpipe-data")
        self.why: str | None = None
        self.calls: list[tuple[str, ...]] = []
        self._folder = folder
        monkeypatch.setattr(opening, "run", self._run)
        monkeypatch.setattr(opening, "read_luks", lambda _: self.found)
        monkeypatch.setattr(opening, "close", lambda: None)
        monkeypatch.setattr(Luks, "why_not_ours", lambda _: self.why)

    def opening(self, record: Record) -> opening._Opening:
        vault = Vault(Path("/dev/sda1"), Machine(AES_XTS, Costs(65536, 4, 1)), self.luks)
        return opening._Opening(vault, record, Places(self._folder, self._folder / "data", lambda _: None))

    def _run(self, *words: str) -> str:
        self.calls.append(words)
        if words[0] == "lsblk" and self.partition == "gone":
            raise subprocess.CalledProcessError(32, words, "lsblk: /dev/sda1: not a block device\n")
        return json.dumps({"blockdevices": [{"partuuid": self.partition}]}) if words[0] == "lsblk" else ""


@pytest.fixture
def plugged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plugged:
    """The disk that was looked at."""
    return Plugged(tmp_path, monkeypatch)


def test_why_the_tpm_does_not_unlock_it_is_told_wherever_the_passphrase_is_asked_for(
    plugged: Plugged, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told, waited = list[str](), list[str]()
    for name, value in {
        "MAPPED": tmp_path / "nothing",
        "Vault": lambda *_: Vault(Path("/dev/sda1"), Machine(AES_XTS, Costs(65536, 4, 1)), plugged.luks),
        "announce": told.append,
        "tpm_unlock": lambda _: None,
        "wants_tpm": lambda _: True,
    }.items():
        monkeypatch.setattr(opening, name, value)
    monkeypatch.setattr(opening._Opening, "wait", lambda _self, _door, warning: waited.append(warning))
    record = Record(place=Place.OTHER, uuid=CONTAINER, encrypted=True)
    opening.open_disk(Path("/dev/sda1"), record, Places(tmp_path, tmp_path, lambda _: None), Door(tmp_path))
    assert waited == [told[0].removeprefix("DarkPipe: ")]
    assert "do not type it here" in waited[0]


@pytest.mark.parametrize("partition", ["another", "gone", None])
def test_a_disk_that_was_plugged_in_meanwhile_is_not_formatted(plugged: Plugged, partition: str | None) -> None:
    """Its owner's photographs may be on it, in a partition of the same name."""
    record = Record(place=Place.OTHER, uuid=CONTAINER, encrypted=True, making=_PARTITION)
    plugged.partition = partition
    before = len(plugged.header.calls)
    with pytest.raises(DiskError, match=r"was unplugged or exchanged .* start the device again"):
        plugged.opening(record).make(PASSPHRASE, RecoverySecret(bytes(16)), lambda _: None)
    assert len(plugged.header.calls) == before
    assert plugged.calls[0] == ("udevadm", "settle")


@pytest.mark.parametrize("exchanged", ["gone", "another", "planted"])
def test_nothing_that_was_plugged_in_meanwhile_is_unlocked(plugged: Plugged, exchanged: str) -> None:
    """One with a head of a thief's would open by the right passphrase, and take the mail as it is."""
    record = Record(place=Place.OTHER, uuid=CONTAINER, encrypted=True)
    way = plugged.opening(record)
    assert way.unlock(PASSPHRASE.decode())
    plugged.luks.add(PASSPHRASE, b"of a stick", Use.USB_KEY, None)
    assert way.unlock_by(b"of a stick")
    match exchanged:
        case "gone":
            plugged.found = None
        case "another":
            plugged.found = Header(UUID(int=8), "darkpipe-data")
        case _:
            plugged.why = "the mail would be encrypted with cipher_null-ecb"
    before = len(plugged.header.calls)
    with pytest.raises(LuksError, match=r"was unplugged or exchanged .* start the device again"):
        way.unlock(PASSPHRASE.decode())
    with pytest.raises(LuksError, match="was unplugged or exchanged"):
        way.unlock_by(b"of a stick")
    assert not [call for call in plugged.header.calls[before:] if call[0] == "open"]
