"""A btrfs superblock that a power cut has torn between two sectors."""

from __future__ import annotations

import struct
from pathlib import Path
from uuid import UUID

import pytest

from firstboot.superblock import Btrfs, crc32c, mend_superblock, read_btrfs

_OFFSET = 65536


def superblock(generation: int, filling: int) -> bytes:
    """What counts of a superblock, by the on-disk format: csum, fsid, bytenr, flags, magic, generation, csum_type."""
    summed = bytearray([filling]) * (4096 - 32)
    struct.pack_into("<16sQQ8sQ", summed, 0, b"f" * 16, _OFFSET, 1, b"_BHRfS_M", generation)
    struct.pack_into("<H", summed, 196 - 32, 0)
    return struct.pack("<I28x", crc32c(bytes(summed))) + bytes(summed)


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "disk"
    path.write_bytes(bytes(_OFFSET) + superblock(12, 7) + bytes(4096))
    return path


def _read(disk: Path) -> bytes:
    return disk.read_bytes()[_OFFSET : _OFFSET + 4096]


def _write(disk: Path, block: bytes, at: int = 0) -> None:
    content = bytearray(disk.read_bytes())
    content[_OFFSET + at : _OFFSET + at + len(block)] = block
    disk.write_bytes(content)


def test_the_checksum_is_that_of_the_standard() -> None:
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA  # RFC 3720 §B.4


def test_a_whole_one_stays(disk: Path) -> None:
    before = disk.read_bytes()
    assert not mend_superblock(disk)
    assert disk.read_bytes() == before


@pytest.mark.parametrize("sectors", range(1, 8))
def test_a_torn_one_is_that_of_its_first_sector(disk: Path, sectors: int) -> None:
    new = superblock(13, 9)
    _write(disk, new[: 512 * sectors])
    assert mend_superblock(disk)
    mended = _read(disk)
    assert mended[4:512] == new[4:512]
    assert mended[512:] == new[512 : 512 * sectors] + superblock(12, 7)[512 * sectors :]
    assert mended[:4] == struct.pack("<I", crc32c(mended[32:]))
    assert not mend_superblock(disk)


def test_the_old_one_with_a_new_end_is_the_old_one(disk: Path) -> None:
    _write(disk, superblock(13, 9)[2048:], 2048)
    assert mend_superblock(disk)
    assert struct.unpack_from("<Q", _read(disk), 72) == (12,)


@pytest.mark.parametrize(("at", "what"), [(64, b"no magic"), (48, b"elsewhere"[:8]), (196, b"\1\0")])
def test_what_is_no_such_superblock_is_not_touched(disk: Path, at: int, what: bytes) -> None:
    _write(disk, what, at)
    before = disk.read_bytes()
    assert not mend_superblock(disk)
    assert disk.read_bytes() == before


def test_a_disk_that_is_too_small(tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(b"")
    assert not mend_superblock(tmp_path / "disk")


@pytest.mark.parametrize("sectors", [1, 8])
def test_it_says_whose_it_is_even_when_it_is_torn(disk: Path, sectors: int) -> None:
    block = bytearray(superblock(13, 9))
    block[299:555] = b"darkpipe-data".ljust(256, b"\0")
    _write(disk, bytes(block[: 512 * sectors]))
    assert read_btrfs(disk) == Btrfs(UUID(bytes=b"f" * 16), "darkpipe-data", int.from_bytes([9] * 8))


def test_what_is_no_btrfs_is_nobodys(tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(bytes(2**20))
    assert read_btrfs(tmp_path / "disk") is None
    assert read_btrfs(tmp_path / "missing") is None
