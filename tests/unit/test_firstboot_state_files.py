"""The file system of `state`, damaged in several ways: the device starts all the same, or says what helps."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest

from firstboot import disk as firstboot_disk
from firstboot import door
from firstboot.partitions import Disk, DiskError
from firstboot.state_files import mend_state
from firstboot.unlock_socket import UnlockClient, forget_failure, leave_failure
from firstboot.unlocking import Refused, Stage, View
from tests.tiers import REPOSITORY


class _Checker:
    """Stands for e2fsck(8), as 1.47 was seen to answer for such a file system.

    Args:
        preen, all_mended: exit statuses with `-p`, and with a yes to everything.
    """

    def __init__(self, preen: int, all_mended: int) -> None:
        self.statuses = {"-p": preen, "-y": all_mended}
        self.asked: list[str] = []

    def __call__(self, *argv: str, allowed: Sequence[int]) -> str:
        assert (argv[0], argv[-1]) == ("fsck.ext4", "/dev/sda4")
        option = argv[-2]
        self.asked.append(option)
        if self.statuses[option] not in allowed:
            raise subprocess.CalledProcessError(self.statuses[option], argv, output="UNEXPECTED INCONSISTENCY")
        return "mended"


@pytest.mark.parametrize("status", [0, 1])
def test_what_every_power_cut_leaves_is_mended_without_a_word(status: int) -> None:
    told: list[str] = []
    checker = _Checker(status, 0)
    mend_state(Path("/dev/sda4"), checker, told.append)
    assert (checker.asked, told) == (["-p"], [])


@pytest.mark.parametrize("status", [4, 8, 12])
def test_what_costs_something_is_mended_too(status: int) -> None:
    """A folder with rubbish in it (4), a superblock that is gone (8): no settings are worth all of the mail."""
    told: list[str] = []
    checker = _Checker(status, 1)
    mend_state(Path("/dev/sda4"), checker, told.append)
    assert checker.asked == ["-p", "-y"]
    assert len(told) == 1
    assert "was damaged, and is mended" in told[0]


def test_what_cannot_be_mended_has_a_remedy() -> None:
    told: list[str] = []
    with pytest.raises(DiskError, match=r"holds the device's settings and no mail.* mkfs\.ext4 -L darkpipe-state"):
        mend_state(Path("/dev/sda4"), _Checker(8, 8), told.append)
    assert told == []


@pytest.mark.parametrize(("which", "seen"), [("state", None), ("data", "it is damaged: write the image again")])
def test_why_there_is_no_disk_is_told_without_a_screen(
    which: str, seen: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the page, and over SSH by `darkpipe disk unlock`, which is all that a login may do as root then."""
    socket = tmp_path / "run/control"
    made: list[Path] = []

    def broken() -> Disk:
        raise DiskError("it is damaged: write the image again")

    monkeypatch.setattr(firstboot_disk, "system_disk", broken)
    monkeypatch.setattr(firstboot_disk, "announce", lambda _: True)
    monkeypatch.setattr(door, "ensure_page_certificate", made.append)
    monkeypatch.setattr(door, "leave_failure", partial(leave_failure, path=socket))
    assert firstboot_disk.main([which]) == 1
    if seen is None:
        assert not socket.with_name("failed").exists()
        return
    assert UnlockClient(socket).see().view == View(Stage.FAILED, seen)
    assert made == [Path("/state")]
    unit = (REPOSITORY / "components/unlock/units/darkpipe-page.path").read_text()
    assert "PathExists=/run/darkpipe-disk/failed" in unit.splitlines()
    forget_failure(socket)
    with pytest.raises(Refused):
        UnlockClient(socket).see()

    monkeypatch.setattr(firstboot_disk, "system_disk", lambda: int("what a seed may hold"))
    with pytest.raises(ValueError, match="what a seed"):
        firstboot_disk.main([which])
    text = UnlockClient(socket).see().view.text
    assert "DarkPipe's own fault: ValueError in" in text
    assert "seed" not in text
