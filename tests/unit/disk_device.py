"""A home with an encrypted disk that is unlocked, and somebody who types, for the tests of `darkpipe disk`."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from firstboot.cipher import AES_XTS
from firstboot.costs import Costs
from firstboot.data_place import Place, Record, keep_record
from firstboot.luks import Luks, Use
from firstboot.recovery import RecoverySecret
from firstboot.unlock_dialog import GoneError, Tty
from home import disk_commands
from home.cli import main
from tests.unit.test_firstboot_luks import Header2

OLD, NEW = "eleven quiet geese", "nineteen loud geese"
SECRET, OTHER = RecoverySecret(bytes(16)), RecoverySecret(bytes(range(16)))


class Device:
    """The device, whose folders for `state` and `data` are one; its head lies in memory."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.header = Header2()
        self.luks = Luks(Path("/dev/sda1"), self.header)
        self.luks.format(uuid.UUID(int=7), AES_XTS, SECRET.disk_key, Use.RECOVERY)
        self.luks.add(SECRET.disk_key, OLD.encode(), Use.PASSPHRASE, Costs(65536, 4, 1))
        keep_record(folder, Record(place=Place.SYSTEM, uuid=uuid.UUID(int=7), encrypted=True))
        (folder / "queue-keys").mkdir()
        (folder / "queue-keys/recovery.pub").write_text(f"{SECRET.recipient}\n")
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
