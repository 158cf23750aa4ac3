"""Partitions: found by label or number, grown in two steps, and made so that what counts is whole."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

import firstboot.disk
from firstboot import other_disks, usb_disk
from firstboot.growing import Change, Entry, changes, read_table
from firstboot.making import ensure_file_system, is_finished
from firstboot.other_disks import Volume, candidates, describe, find_other_disks
from firstboot.partitions import Disk, DiskError, find_copies, find_partition, system_disk
from firstboot.usb_disk import EDGE, is_part_of, is_unfinished, make_usb_disk, read_edges
from model.layout import FileSystem, Layout, Table
from tests.tiers import REPOSITORY
from tests.unit.power_cut import at_every_step

_GPT = Layout(table=Table.GPT, boot="esp", formats={"state": FileSystem.EXT4, "data": FileSystem.BTRFS})
_DOS = Layout(table=Table.DOS, boot="boot", partitions={"boot": 1, "state": 7, "data": 8}, formats=_GPT.formats)
_MIB = 2048
"""Sectors."""

_ROWS: list[dict[str, Any]] = [
    {"path": "/dev/sda", "type": "disk", "partn": None, "partlabel": None},
    {"path": "/dev/sda1", "type": "part", "partn": 1, "partlabel": "darkpipe-esp"},
    {"path": "/dev/sda7", "type": "part", "partn": "7", "partlabel": None},
    {"path": "/dev/sda8", "type": "part", "partn": 8, "partlabel": "darkpipe-data"},
    {"path": "/dev/mapper/root", "type": "crypt", "partn": None, "partlabel": None},
]


@pytest.mark.parametrize(
    ("layout", "name", "expected"),
    [
        (_GPT, "esp", "/dev/sda1"),
        (_GPT, "data", "/dev/sda8"),
        (_GPT, "state", None),
        (_DOS, "boot", "/dev/sda1"),
        (_DOS, "state", "/dev/sda7"),
        (_DOS, "data", "/dev/sda8"),
    ],
)
def test_a_partition_is_found_by_what_the_table_has(layout: Layout, name: str, expected: str | None) -> None:
    found = find_partition(_ROWS, layout, name)
    assert found == (Path(expected) if expected else None)


@pytest.fixture
def block_devices(tmp_path: Path) -> Path:
    """Folders as in sysfs: two disks with three partitions each, and a mapping."""
    folder = tmp_path / "class"
    folder.mkdir()
    for disk in ("mmcblk0", "sda"):
        for part in ("p1", "p5", "p7") if disk == "mmcblk0" else ("1", "5", "7"):
            (tmp_path / "devices" / disk / f"{disk}{part}").mkdir(parents=True)
            (folder / f"{disk}{part}").symlink_to(tmp_path / "devices" / disk / f"{disk}{part}")
    (tmp_path / "devices/dm-0/slaves").mkdir(parents=True)
    (folder / "dm-0").symlink_to(tmp_path / "devices/dm-0")
    return folder


def test_the_system_disk_is_the_one_that_the_root_is_read_from(tmp_path: Path, block_devices: Path) -> None:
    layout = tmp_path / "disk.json"
    layout.write_text(_DOS.model_dump_json())
    root = tmp_path / "root"
    root.symlink_to("/dev/dm-0")
    (block_devices / "dm-0/slaves/sda5").symlink_to("../../sda/sda5")
    assert system_disk(root, block_devices, layout) == Disk(Path("/dev/sda"), _DOS)


def test_a_system_without_its_disk(tmp_path: Path, block_devices: Path) -> None:
    for root in (tmp_path / "root", tmp_path / "dm-0"):  # no mapping, and one on nothing
        with pytest.raises(DiskError, match="no DarkPipe disk image"):
            system_disk(root, block_devices)


def test_copies_of_the_system_are_found() -> None:
    def rows(*others: str | None) -> list[dict[str, Any]]:
        """Give what lsblk(8) says of a card with two partitions, and of a disk with one for each identifier."""
        return [
            {"path": "/dev/mmcblk0", "partuuid": None, "pkname": None},
            {"path": "/dev/mmcblk0p5", "partuuid": "4f0c4f0c-05", "pkname": "mmcblk0"},
            {"path": "/dev/mmcblk0p7", "partuuid": "4f0c4f0c-07", "pkname": "mmcblk0"},
            {"path": "/dev/mapper/root", "partuuid": None, "pkname": "mmcblk0p5"},
            {"path": "/dev/sda", "partuuid": None, "pkname": None},
            *({"path": f"/dev/sda{number}", "partuuid": uuid, "pkname": "sda"} for number, uuid in enumerate(others)),
        ]

    card, disk = Path("/dev/mmcblk0"), Path("/dev/sda")
    assert find_copies(rows("4f0c4f0c-05", "4f0c4f0c-07"), card) == [disk]
    assert find_copies(rows("4f0c4f0c-05", "4f0c4f0c-07"), disk) == [card]
    assert find_copies(rows("00004f0c-05", None), card) == []


# A table like that of the Raspberry Pi's image.
_TABLE = (
    Entry(1, _MIB, 256 * _MIB),
    Entry(4, 300 * _MIB, 1100 * _MIB, extended=True),
    Entry(7, 301 * _MIB, 1024 * _MIB),
    Entry(8, 1326 * _MIB, 64 * _MIB),
)


def _applied(table: tuple[Entry, ...], change: Change) -> tuple[Entry, ...]:
    return tuple(replace(entry, size=change.size) if entry.number == change.number else entry for entry in table)


@pytest.mark.parametrize("extra", [0, 1, _MIB - 1])
def test_the_extended_partition_grows_first_then_the_last(extra: int) -> None:
    sectors = 10_000 * _MIB + extra
    wanted = changes(_TABLE, 8, sectors)
    assert wanted == (Change(4, (10_000 - 300) * _MIB), Change(8, (10_000 - 1326) * _MIB))
    # After a power cut between the two, the other one is left; after both, nothing is.
    between = _applied(_TABLE, wanted[0])
    assert changes(between, 8, sectors) == wanted[1:]
    after = _applied(between, wanted[1])
    assert changes(after, 8, sectors) == ()
    assert [entry for entry in after if entry.number in {1, 7}] == [_TABLE[0], _TABLE[2]]
    assert changes(after, 8, sectors + 5 * _MIB), "a larger disk"


def test_a_table_of_mbr_ends_at_2_tib() -> None:
    (around, last) = changes(_TABLE, 8, 8 * 2**32)
    assert 300 * _MIB + around.size == 1326 * _MIB + last.size == 2**32 - _MIB


def test_a_partition_that_somebody_has_made_behind_ours_stays() -> None:
    last = next(entry for entry in _TABLE if entry.number == 8)
    theirs = Entry(9, last.end + 2048, 100 * _MIB)
    assert changes((*_TABLE, theirs), 8, theirs.end + 1000 * _MIB) == ()


def test_a_warning_is_no_part_of_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What sfdisk says of a disk above 2 TiB, on standard error; the table is read all the same."""
    table = (
        '{"partitiontable": {"label": "dos", "sectorsize": 512, "partitions": '
        '[{"node": "/dev/sda1", "start": 2048, "size": 4096, "type": "c"}]}}'
    )
    sfdisk = tmp_path / "sfdisk"
    sfdisk.write_text(f"#!/bin/sh\necho 'The size of this disk is 3 TiB.' >&2\necho '{table}'\n")
    sfdisk.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert read_table(Path("/dev/sda")) == (Entry(1, 2048, 4096),)


@pytest.mark.parametrize(
    ("table", "sectors", "words"),
    [
        (_TABLE[:1], 10_000 * _MIB, "write the image again"),
        (_TABLE[:3], 10_000 * _MIB, "write the image again"),
        (_TABLE, 1389 * _MIB, "before its last partition"),
    ],
)
def test_a_table_that_cannot_be_ours(table: tuple[Entry, ...], sectors: int, words: str) -> None:
    with pytest.raises(DiskError, match=words):
        changes(table, 8, sectors)


def _mkfs(*argv: str) -> str:
    """Write like mkfs: a file system, over all that was at the beginning."""
    assert argv[:1] == ("mkfs.ext4",)
    assert argv[-2] == "darkpipe-state"
    with Path(argv[-1]).open("r+b") as file:
        file.write(bytes(1024) + b"new file system")
    return ""


def test_a_file_system_counts_when_it_is_finished(tmp_path: Path) -> None:
    partition = tmp_path / "partition"
    partition.write_bytes(bytes(4096))
    for _ in at_every_step(lambda: ensure_file_system(partition, FileSystem.EXT4, "darkpipe-state", _mkfs)):
        if is_finished(partition, "darkpipe-state"):
            assert partition.read_bytes()[1024:].startswith(b"new file system")
        ensure_file_system(partition, FileSystem.EXT4, "darkpipe-state", _mkfs)
        assert is_finished(partition, "darkpipe-state")
        # Whatever has been written since stays.
        with partition.open("r+b") as file:
            file.seek(1024)
            file.write(b"mail mail mail!")
        assert not ensure_file_system(partition, FileSystem.EXT4, "darkpipe-state", _mkfs)
        assert partition.read_bytes()[1024:].startswith(b"mail")
        partition.write_bytes(bytes(4096))


def test_another_partitions_mark_is_none(tmp_path: Path) -> None:
    partition = tmp_path / "partition"
    partition.write_bytes(bytes(4096))
    ensure_file_system(partition, FileSystem.EXT4, "darkpipe-state", _mkfs)
    assert not is_finished(partition, "darkpipe-data")


_PART = {"type": "part", "fstype": "vfat", "label": "BACKUP\x1b[2J", "path": "/dev/sdb1"}


@pytest.mark.parametrize(
    ("parts", "signatures", "zeros", "read_only", "expected"),
    [
        ([], [], True, False, ""),
        ([], [], True, True, "nothing, but it is write-protected"),
        ([], [], False, False, "data of an unknown kind"),
        ([], [{"type": "ntfs", "label": "Fotos"}], False, False, "ntfs “Fotos”"),
        ([], [{"type": "gpt", "label": None}, {"type": "gpt", "label": None}], False, False, "gpt"),
        ([_PART], [{"type": "dos", "label": None}], False, False, "1 partition (vfat “BACKUP\ufffd[2J”)"),
        ([{**_PART, "fstype": None}] * 2, [], True, False, "2 partitions"),
    ],
)
def test_what_is_on_a_disk_in_words(
    parts: list[dict[str, str | None]],
    signatures: list[dict[str, str | None]],
    zeros: bool,
    read_only: bool,
    expected: str,
) -> None:
    row = {"path": "/dev/sdb", "ro": read_only, **({"children": parts} if parts else {})}
    assert describe(row, signatures, zeros=zeros) == expected


def test_which_devices_may_be_another_disk() -> None:
    rows = [
        {"path": "/dev/sda", "type": "disk", "size": 10**10},
        {"path": "/dev/sdb", "type": "disk", "size": 10**10},
        {"path": "/dev/sdc", "type": "disk", "size": 0},  # a card reader without a card
        {"path": "/dev/sr0", "type": "rom", "size": 10**9},
        {"path": "/dev/loop0", "type": "loop", "size": 10**9},
    ]
    assert [row["path"] for row in candidates(rows, Path("/dev/sda"))] == ["/dev/sdb"]


_TABLE_ON_DISK = (bytes(512) + b"header".ljust(1024, b"h") + bytes(EDGE - 1536), bytes(EDGE - 512) + b"e" * 512)
_EMPTY = (bytes(EDGE), bytes(EDGE))


@pytest.mark.parametrize(
    ("edges", "expected"),
    [
        (_EMPTY, False),  # which is empty, and needs no such proof
        (_TABLE_ON_DISK, False),  # which is whole
        ((_EMPTY[0], _TABLE_ON_DISK[1]), True),
        ((_TABLE_ON_DISK[0][:1024] + bytes(EDGE - 1024), _TABLE_ON_DISK[1]), True),
        ((b"boot".ljust(EDGE, b"\0"), _TABLE_ON_DISK[1]), False),
        ((_EMPTY[0][:1024] + b"x" + _EMPTY[0][1025:], _EMPTY[1]), False),
        ((_EMPTY[0], b"photo" + _TABLE_ON_DISK[1][5:]), False),
    ],
)
def test_what_a_power_cut_has_left_of_a_table(edges: tuple[bytes, bytes], expected: bool) -> None:
    assert is_part_of(edges, _TABLE_ON_DISK) is expected


def _repart(*argv: str) -> str:
    """Stand for systemd-repart(8), which writes no partition into the table that it is told to defer."""
    deferred = any(word.startswith("--defer-partitions=") for word in argv)
    (seed,) = (word.encode() for word in argv if word.startswith("--seed="))
    with Path(argv[-1]).open("r+b") as disk:
        disk.seek(512)
        disk.write(b"EFI PART, of no partition" if deferred else b"EFI PART")
        disk.seek(1024)
        disk.write(b"" if deferred else seed)
        disk.seek(-512, os.SEEK_END)
        disk.write(b"EFI PART")
    return ""


def test_a_usb_disk_whose_making_was_cut_off_is_known_by_the_table_that_it_was_to_get(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(usb_disk, "run", _repart)
    monkeypatch.setattr(usb_disk, "_IN_MEMORY", tmp_path)
    disk, seed = tmp_path / "disk", UUID(int=1)
    with disk.open("wb") as file:
        file.truncate(3 * EDGE)
    make_usb_disk(disk, seed, unfinished=False, bare=True)
    whole = read_edges(disk)

    def judge(edges: tuple[bytes, bytes], *, bare: bool = False, other: int = 1) -> bool:
        return is_unfinished(disk, edges, 512, UUID(int=other), bare=bare)

    assert judge(whole, bare=True)
    assert not judge(whole)
    for cut in ((bytes(EDGE), whole[1]), (whole[0], bytes(EDGE)), (bytes(1024) + whole[0][1024:], whole[1])):
        assert judge(cut)
    assert not judge((whole[0], bytes(EDGE)), other=2)


@pytest.mark.parametrize(
    ("volume", "unfinished", "count"),
    [
        (None, True, 0),
        (Volume(Path("/dev/sda1"), UUID(int=1)), True, 0),
        (Volume(Path("/dev/sda1"), UUID(int=1), encrypted=True), False, 1),
    ],
)
def test_a_finished_container_is_not_taken_for_an_unfinished_disk(
    monkeypatch: pytest.MonkeyPatch, volume: Volume | None, unfinished: bool, count: int
) -> None:
    """Its table is the one that this device has made, and `state` has lost what was decided."""
    part = {"path": "/dev/sda1", "type": "part", "partuuid": "0f", "fstype": None, "label": None}
    row = {"path": "/dev/sda", "type": "disk", "tran": "usb", "size": 10**10, "model": "T7", "ro": False}
    listed = json.dumps({"blockdevices": [{**row, "log-sec": 512, "children": [part]}]})
    monkeypatch.setattr(other_disks, "run", lambda *_: listed)
    monkeypatch.setattr(other_disks, "_look_closely", lambda *_: ("1 partition", True))
    monkeypatch.setattr(other_disks, "_volume", lambda place: volume if place == Path("/dev/sda1") else None)
    (disk,) = find_other_disks(Path("/dev/mmcblk0"), closely=True, seed=UUID(int=1), bare=True)
    assert (disk.unfinished, len(disk.volumes)) == (unfinished, count)


def test_a_usb_disk_has_the_same_table_whether_encrypted_or_not() -> None:
    folder = REPOSITORY / "components/agent/files/usr/share/darkpipe"
    plain, bare = (
        [line for line in (folder / name / "10-data.conf").read_text().splitlines() if not line.startswith("#")]
        for name in ("data-disk.d", "bare-data-disk.d")
    )
    assert plain == [*bare, "Format=btrfs"]


def test_a_fault_of_our_own_is_told_on_the_console(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits in front of the device sees no journal; and what the error says might quote the seed."""

    def read_a_table() -> Disk:
        raise ValueError("a secret")

    told: list[str] = []
    monkeypatch.setattr(firstboot.disk, "system_disk", read_a_table)
    monkeypatch.setattr(firstboot.disk, "announce", told.append)
    with pytest.raises(ValueError, match="a secret"):
        firstboot.disk.main(["state"])
    (text,) = told
    assert f"ValueError in {Path(__file__).name}, line {read_a_table.__code__.co_firstlineno + 1}." in text
    assert "a secret" not in text
