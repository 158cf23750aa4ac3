"""A power cut at each point of the growth of a PC's last partition, with the device's own systemd-repart(8) on a file.

After each cut the kernel has to find every partition where it was, and the next start has to end the growth. The
table of a Raspberry Pi grows by single sectors instead (test_disk.py).
"""

from __future__ import annotations

import os
import struct
import subprocess
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import pytest

from tests.machine.writes import SECTOR, Write, cuts, flush_groups, wrap
from tests.syscalls import why_not

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))

_SMALL, _LARGE = 16 * 10**9, 18 * 10**9 // SECTOR * SECTOR
_EDGE = 2**20
_PARTITIONS = 5


@dataclass(frozen=True)
class Place:
    """Where a partition lies, in sectors; `last` is part of it."""

    identifier: UUID
    first: int
    last: int


class Growing:
    """A disk with the table of a device, which has become larger.

    Args:
        root: the device's unpacked root.
        folder: for the disk, and for what is known of it.
    """

    def __init__(self, root: Path, folder: Path) -> None:
        self.disk = folder / "disk"
        self._log = folder / "strace"
        self._tool = wrap(root, "usr/bin/systemd-repart", folder)
        self._definitions = root / "usr/share/darkpipe/repart.d"
        # Making file systems is another matter, and needs the device's mkfs.
        bare = folder / "bare.d"
        bare.mkdir()
        for path in self._definitions.iterdir():
            lines = [line for line in path.read_text().splitlines() if not line.startswith("Format=")]
            (bare / path.name).write_text("\n".join(lines))
        self._repart(bare, "--empty=create", f"--size={_SMALL}")
        os.truncate(self.disk, _LARGE)

    def grow(self) -> list[list[Write]]:
        """Grow the last partition as each start does; gives what was written."""
        self._log.unlink(missing_ok=True)
        self._repart(self._definitions, record=str(self._log))
        return [group for group in flush_groups(self._log.read_text().splitlines(), self.disk) if group]

    def write(self, writes: Sequence[Write]) -> None:
        """Write to the disk."""
        with self.disk.open("r+b") as file:
            for write in writes:
                file.seek(write.offset)
                file.write(write.content)

    def edges(self) -> list[Write]:
        """Give both ends of the disk, all that has a table in it: written again, they are as they were."""
        return [Write(at, self._bytes(at, _EDGE)) for at in (0, _LARGE - _EDGE)]

    def table(self) -> list[Place] | None:
        """Read the table as the kernel does: the first one, else the one in the disk's last sector.

        UEFI 2.10 §5.3.2; block/partitions/efi.c of Linux.
        """
        mbr = self._bytes(0, SECTOR)
        if mbr[510:] != b"\x55\xaa" or mbr[446 + 4] != 0xEE:
            return None
        return self._table(1) or self._table(_LARGE // SECTOR - 1)

    def _table(self, sector: int) -> list[Place] | None:
        header = self._bytes(sector * SECTOR, SECTOR)
        size, crc = struct.unpack_from("<II", header, 12)
        own, entries, count, length, entries_crc = (*struct.unpack_from("<Q", header, 24), *_rest(header))
        if header[:8] != b"EFI PART" or own != sector or size > SECTOR:
            return None
        if zlib.crc32(header[:16] + bytes(4) + header[20:size]) != crc:
            return None
        rows = self._bytes(entries * SECTOR, count * length)
        if zlib.crc32(rows) != entries_crc:
            return None
        used = [rows[at : at + length] for at in range(0, len(rows), length) if any(rows[at : at + 16])]
        return [Place(UUID(bytes_le=row[16:32]), *struct.unpack_from("<QQ", row, 32)) for row in used]

    def _bytes(self, offset: int, length: int) -> bytes:
        with self.disk.open("rb") as file:
            file.seek(offset)
            return file.read(length)

    def _repart(self, definitions: Path, *options: str, record: str = "") -> None:
        command = [str(self._tool), "--dry-run=no", f"--definitions={definitions}", *options, str(self.disk)]
        done = subprocess.run(
            command, env={"PATH": "/usr/bin:/bin", "RECORD": record}, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr


def _rest(header: bytes) -> tuple[int, int, int, int]:
    entries, count, length, crc = struct.unpack_from("<QIII", header, 72)
    return entries, count, length, crc


@pytest.fixture
def growing(root: Path, tmp_path: Path) -> Growing:
    """A disk that has become larger."""
    return Growing(root, tmp_path)


def test_cut_anywhere_the_partitions_are_found_and_the_next_start_ends_the_growth(growing: Growing) -> None:
    before, old = growing.table(), growing.edges()
    assert before is not None
    assert len(before) == _PARTITIONS
    groups = growing.grow()
    assert all(write.offset < _EDGE or write.offset >= _LARGE - _EDGE for group in groups for write in group)
    after = growing.table()
    assert after is not None
    assert after[:-1] == before[:-1]
    assert after[-1].last > before[-1].last + 10**9 // SECTOR
    seen = 0
    for writes in cuts(groups):
        growing.write([*old, *writes])
        found = growing.table()
        assert found in (before, after), "the old or the new table, never none"
        growing.grow()
        assert growing.table() == after
        seen += 1
    assert seen >= 10
    assert growing.grow() == [], "what has grown is not written again"


def test_a_disk_without_flushes_is_found_out(growing: Growing) -> None:
    """The control: without the flushes between them some cut leaves no table at all, and `table` says so."""
    old = growing.edges()
    groups = growing.grow()
    assert len(groups) > 3
    flat = [write for group in groups for write in group]
    found = []
    for writes in cuts([flat]):
        growing.write([*old, *writes])
        found.append(growing.table())
    assert None in found
