"""The partition table: protective MBR and GPT, field by field (UEFI 2.10 §5)."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from builder.compare.reader import Reader
from builder.compare.regions import Region

_SECTOR = 512
_ENTRIES = 128
_ENTRY = 128
_HEADER = 92
_HEADER_FIELDS = (
    ("signature", 8), ("revision", 4), ("header size", 4), ("header checksum", 4), ("reserved", 4),
    ("own sector", 8), ("other header's sector", 8), ("first usable sector", 8), ("last usable sector", 8),
    ("disk UUID", 16), ("first sector of the entries", 8), ("number of entries", 4), ("size of an entry", 4),
    ("checksum of the entries", 4),
)  # fmt: skip
_ENTRY_FIELDS = (
    ("type", 16), ("UUID", 16), ("first sector", 8), ("last sector", 8), ("attributes", 8), ("name", 72),
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """A partition: where it lies, in bytes, and its label."""

    start: int
    end: int
    label: str


def read_table(image: Reader) -> list[Row]:
    """Read the partitions of a GPT.

    Raises:
        ValueError: there is no such table, or its checksums do not fit.
    """
    header = bytearray(image.read(_SECTOR, _HEADER))
    own, entries = struct.unpack_from("<I", header, 16)[0], struct.unpack_from("<I", header, 88)[0]
    header[16:20] = bytes(4)  # the header's checksum is made with zeros in its place
    if zlib.crc32(header) != own or zlib.crc32(image.read(2 * _SECTOR, _ENTRIES * _ENTRY)) != entries:
        raise ValueError("there is no whole GPT")
    rows = []
    for number in range(_ENTRIES):
        entry = image.read(2 * _SECTOR + number * _ENTRY, _ENTRY)
        if any(entry[:16]):
            first, last = struct.unpack_from("<QQ", entry, 32)
            if not 0 < first <= last < image.size // _SECTOR:
                raise ValueError(f"entry {number + 1} lies outside the disk")
            label = entry[56:].decode("utf-16-le", errors="replace").rstrip("\0")
            rows.append(Row(first * _SECTOR, (last + 1) * _SECTOR, label))
    return rows


def table_regions(size: int, rows: list[Row]) -> Iterator[Region]:
    """Name the fields of both tables of a disk."""
    yield Region(0, 440, "protective MBR, boot code")
    yield Region(440, 446, "protective MBR, disk signature")
    yield Region(446, 510, "protective MBR, partition")
    yield Region(510, _SECTOR, "protective MBR, boot signature")
    entries = _ENTRIES * _ENTRY
    yield from _header("partition table, header", _SECTOR)
    yield from _entries("partition table", 2 * _SECTOR, rows)
    yield from _entries("backup partition table", size - _SECTOR - entries, rows)
    yield from _header("backup partition table, header", size - _SECTOR)


def _header(name: str, start: int) -> Iterator[Region]:
    yield Region(start, start + _SECTOR, f"{name}, unused space behind it")
    yield from _fields(name, start, _HEADER_FIELDS)


def _entries(name: str, start: int, rows: list[Row]) -> Iterator[Region]:
    yield Region(start, start + _ENTRIES * _ENTRY, f"{name}, unused entries")
    for number, row in enumerate(rows):
        yield from _fields(f"{name}, entry {number + 1} ({row.label})", start + number * _ENTRY, _ENTRY_FIELDS)


def _fields(name: str, start: int, fields: tuple[tuple[str, int], ...]) -> Iterator[Region]:
    for field, length in fields:
        yield Region(start, start + length, f"{name}, {field}")
        start += length
