"""What a power cut leaves of a log of writes, for logs made by hand."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import pytest

from tests.power.write_log import Flag, Piece, WriteLog, WriteLogError, write_pieces

_SECTOR = 512
_NONE = Flag(0)


class Maker:
    """Writes a log as blklogwrites does."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._entries: list[bytes] = []

    def write(self, sector: int, letter: str, sectors: int = 1, flags: Flag = _NONE) -> int:
        return self._add(sector, sectors, flags, letter.encode() * (sectors * _SECTOR))

    def flush(self) -> int:
        return self._add(0, 0, Flag.FLUSH, b"")

    def discard(self, sector: int, sectors: int) -> int:
        return self._add(sector, sectors, Flag.DISCARD, b"")

    def _add(self, sector: int, sectors: int, flags: Flag, data: bytes) -> int:
        self._entries.append(struct.pack("<QQQQ", sector, sectors, flags, 0).ljust(_SECTOR, b"\0") + data)
        head = struct.pack("<QQQI", 0x6A736677736872, 1, len(self._entries), _SECTOR).ljust(_SECTOR, b"\0")
        self.path.write_bytes(head + b"".join(self._entries))
        return self.path.stat().st_size


@pytest.fixture
def maker(tmp_path: Path) -> Maker:
    return Maker(tmp_path / "log")


def _disk_after(maker: Maker, position: int, rng: random.Random | None = None) -> str:
    """One letter for each of eight sectors; a dot is one that was never written."""
    disk = maker.path.with_name("disk")
    disk.write_bytes(b"." * (8 * _SECTOR))
    log = WriteLog.read(maker.path)
    write_pieces(log.durable(0, log.last_flush(position)), log.path, disk)
    write_pieces(log.in_the_air(position, rng), log.path, disk)
    content = disk.read_bytes()
    sectors = [content[at : at + _SECTOR] for at in range(0, len(content), _SECTOR)]
    assert all(len(set(sector)) == 1 for sector in sectors), "a sector is never torn"
    return "".join(chr(sector[0]) for sector in sectors)


def _disks_after(maker: Maker, position: int) -> set[str]:
    return {_disk_after(maker, position, random.Random(seed)) for seed in range(300)}


def test_flushed_writes_are_always_there_and_later_ones_of_equal_place_win(maker: Maker) -> None:
    maker.write(0, "a", 2)
    maker.write(1, "b")
    maker.flush()
    maker.write(1, "c")
    assert _disk_after(maker, 3) == "ab......"
    assert _disk_after(maker, 4) == "ab......"
    assert _disks_after(maker, 4) == {"ab......", "ac......"}


def test_nothing_after_the_cut_is_there(maker: Maker) -> None:
    maker.write(0, "a")
    maker.flush()
    maker.write(2, "b")
    maker.flush()
    assert _disks_after(maker, 2) == {"a......."}
    assert _disks_after(maker, 1) == {"a.......", "........"}
    assert _disks_after(maker, 0) == {"........"}
    assert _disks_after(maker, 4) == {"a.b....."}


def test_unflushed_writes_come_in_any_combination(maker: Maker) -> None:
    for sector, letter in enumerate("abc"):
        maker.write(sector, letter)
    assert {disk[:3] for disk in _disks_after(maker, 3)} == {f"{a}{b}{c}" for a in "a." for b in "b." for c in "c."}


def test_large_write_is_torn_between_sectors(maker: Maker) -> None:
    maker.write(0, "a", 4)
    disks = {disk[:4] for disk in _disks_after(maker, 1)}
    assert {"aaaa", "....", "a...", "aa..", "aaa."} <= disks
    assert disks & {".aaa", "..a.", "a.a.", "...a", ".a.."}, "not only from the front"


def test_fua_write_is_durable_by_itself_and_vouches_for_nothing_else(maker: Maker) -> None:
    maker.write(0, "a")
    maker.write(1, "b", flags=Flag.FUA)
    assert _disk_after(maker, 2) == ".b......"
    assert _disks_after(maker, 2) == {".b......", "ab......"}


def test_flush_with_data_vouches_for_what_came_before_it(maker: Maker) -> None:
    maker.write(0, "a")
    maker.write(1, "b", flags=Flag.FLUSH | Flag.FUA)
    assert _disks_after(maker, 2) == {"ab......"}


def test_discard_has_no_data_and_no_effect(maker: Maker) -> None:
    maker.write(0, "a")
    maker.discard(0, 4)
    maker.write(1, "b")
    maker.flush()
    assert _disk_after(maker, 4) == "ab......"


def test_zeros_are_written_over_data(maker: Maker) -> None:
    maker.write(0, "a", 2)
    maker.write(0, "\0")
    maker.flush()
    assert _disk_after(maker, 3) == "\0a......"


def test_position_of_a_moment_is_told_by_the_size_of_the_log(maker: Maker) -> None:
    sizes = [maker.write(0, "a", 3), maker.flush(), maker.discard(0, 8), maker.write(1, "b")]
    log = WriteLog.read(maker.path)
    assert [log.position_of_size(size) for size in sizes] == [1, 2, 3, 4]
    assert log.position_of_size(_SECTOR) == 0
    assert log.position_of_size(sizes[2] + 1) == 4, "under way counts as done"


def test_same_seed_gives_the_same_disk(maker: Maker) -> None:
    for sector in range(8):
        maker.write(sector, "abcdefgh"[sector])
    assert _disk_after(maker, 8, random.Random(7)) == _disk_after(maker, 8, random.Random(7))


def test_holes_stay(tmp_path: Path) -> None:
    size = 4096 * _SECTOR
    log, disk = tmp_path / "log", tmp_path / "disk"
    for path in (log, disk):
        with path.open("wb") as file:
            file.truncate(size)
    write_pieces([Piece(0, size, 0)], log, disk)
    assert disk.stat().st_blocks == 0
    disk.write_bytes(b"a" * size)
    write_pieces([Piece(0, size, 0)], log, disk)
    assert disk.read_bytes() == bytes(size)


@pytest.mark.parametrize("content", [b"", b"x" * 600])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "log").write_bytes(content)
    with pytest.raises(WriteLogError):
        WriteLog.read(tmp_path / "log")
