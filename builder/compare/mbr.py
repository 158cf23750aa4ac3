"""The partition table of a disk with an MBR, and the chain of its logical partitions, field by field.

Source: libfdisk's and the kernel's common reading (block/partitions/msdos.c): a logical partition is described by a
sector of its own, whose second entry leads to the next such sector, counted from the extended partition's beginning.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from builder.compare.reader import Reader
from builder.compare.regions import Region
from builder.compare.table import Row

_SECTOR = 512
_ENTRIES_AT = 446
_ENTRY = 16
_MARK = b"\x55\xaa"
_EXTENDED = (0x05, 0x0F, 0x85)
_FIRST_LOGICAL = 5
_MOST = 128


@dataclass(frozen=True)
class _Entry:
    kind: int
    start: int
    size: int


def read_mbr(image: Reader) -> list[Row]:
    """Read the partitions of an MBR; those of GPT's protective one are none.

    Raises:
        ValueError: there is no such table, or a partition lies outside of the disk.
    """
    rows = []
    extended = 0
    for number, entry in enumerate(_entries(image, 0), start=1):
        if entry.kind == 0xEE:
            raise ValueError("the MBR is that of a GPT")
        if entry.kind in _EXTENDED:
            extended = entry.start
        elif entry.kind:
            rows.append(_row(image, number, entry.start, entry.size))
    rows += _logical(image, extended) if extended else []
    if not rows:
        raise ValueError("there is no partition")
    return rows


def mbr_regions(image: Reader) -> Iterator[Region]:
    """Name the fields of the table, and of the sectors that describe logical partitions.

    Raises:
        ValueError: see `read_mbr`.
    """
    yield Region(0, 440, "partition table, boot code")
    yield Region(440, 446, "partition table, disk identifier")
    yield from _fields("partition table", 0, 4)
    extended = next((entry.start for entry in _entries(image, 0) if entry.kind in _EXTENDED), 0)
    for number, sector in enumerate(_chain(image, extended) if extended else (), start=_FIRST_LOGICAL):
        yield from _fields(f"partition table of partition {number}", sector, 2)


def _logical(image: Reader, extended: int) -> Iterator[Row]:
    for number, sector in enumerate(_chain(image, extended), start=_FIRST_LOGICAL):
        entry = _entries(image, sector)[0]
        if entry.kind:
            yield _row(image, number, sector + entry.start, entry.size)


def _chain(image: Reader, extended: int) -> Iterator[int]:
    """Give the sectors that describe logical partitions, in bytes."""
    sector = extended
    for _ in range(_MOST):
        yield sector
        following = _entries(image, sector)[1]
        if not following.kind:
            return
        sector = extended + following.start
    raise ValueError("the logical partitions have no end")


def _entries(image: Reader, sector: int) -> list[_Entry]:
    if not 0 <= sector <= image.size - _SECTOR:
        raise ValueError("a sector of the table lies outside of the disk")
    data = image.read(sector, _SECTOR)
    if data[-2:] != _MARK:
        raise ValueError("a sector of the table has no boot signature")
    found = []
    for at in range(_ENTRIES_AT, _ENTRIES_AT + 4 * _ENTRY, _ENTRY):
        start, size = struct.unpack_from("<II", data, at + 8)
        found.append(_Entry(data[at + 4], start * _SECTOR, size * _SECTOR))
    return found


def _row(image: Reader, number: int, start: int, size: int) -> Row:
    if not 0 < start < start + size <= image.size:
        raise ValueError(f"partition {number} lies outside of the disk")
    return Row(start, start + size, str(number))


def _fields(name: str, sector: int, entries: int) -> Iterator[Region]:
    for number in range(1, entries + 1):
        start = sector + _ENTRIES_AT + (number - 1) * _ENTRY
        yield Region(start, start + _ENTRY, f"{name}, entry {number}")
    yield Region(sector + 510, sector + _SECTOR, f"{name}, boot signature")
