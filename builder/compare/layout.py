"""The layout of a whole disk image: what lies at each byte."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from builder.compare.fat import Fat, File
from builder.compare.mbr import mbr_regions, read_mbr
from builder.compare.pe import pe_sections
from builder.compare.reader import Reader
from builder.compare.regions import Map, Region
from builder.compare.root import root_regions
from builder.compare.table import Row, read_table, table_regions

_HEAD = 4096
_T = TypeVar("_T")


class Images:
    """One image or two that should be equal; of each structure the first that is whole is believed."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._descriptors = [os.open(path, os.O_RDONLY) for path in paths]
        self._readers = [Reader(fd, 0, os.fstat(fd).st_size) for fd in self._descriptors]

    def close(self) -> None:
        """Close the files."""
        for descriptor in self._descriptors:
            os.close(descriptor)

    def rows(self) -> list[Row]:
        """The partitions; none when no image has a table."""
        return _first(read_table, self._readers) or _first(read_mbr, self._readers) or []

    def map(self) -> Map:
        """Name every byte, as exactly as the structures allow."""
        size = max(reader.size for reader in self._readers)
        found = Map(size, "outside of all partitions")
        rows = self.rows()
        if fields := _first(_mbr_regions, self._readers):
            found.add(fields)
        elif rows:
            found.add(table_regions(min(reader.size for reader in self._readers), rows))
        for row in rows:
            name = f"partition {row.label}"
            found.add([Region(row.start, row.end, f"{name}, of no known format")])
            windows = list(self._windows(row))
            for parse in (_esp_regions, _root_regions):
                if regions := _first(parse, windows):
                    found.add(Region(row.start + r.start, row.start + r.end, f"{name}, {r.name}") for r in regions)
        return found

    def _windows(self, row: Row) -> Iterator[Reader]:
        for reader in self._readers:
            if row.end <= reader.size:
                yield reader.window(row.start, row.end)


def _first(parse: Callable[[Reader], _T], readers: Iterable[Reader]) -> _T | None:
    for reader in readers:
        try:
            return parse(reader)
        except ValueError:
            continue
    return None


def _mbr_regions(image: Reader) -> list[Region]:
    read_mbr(image)
    return list(mbr_regions(image))


def _root_regions(partition: Reader) -> list[Region]:
    return list(root_regions(partition))


def _esp_regions(partition: Reader) -> list[Region]:
    fat = Fat(partition)
    regions = list(fat.regions())
    for file in fat.files():
        head = _read(partition, file, 0, min(_HEAD, file.size))
        for section in pe_sections(head):
            regions += _in_partition(file, section)
    return regions


def _read(partition: Reader, file: File, at: int, length: int) -> bytes:
    found = b""
    for start, begin, size in file.runs:
        low, high = max(at, begin), min(at + length, begin + size)
        if low < high:
            found += partition.read(start + low - begin, high - low)
    return found


def _in_partition(file: File, section: Region) -> Iterator[Region]:
    for start, begin, size in file.runs:
        low, high = max(section.start, begin), min(section.end, begin + size)
        if low < high:
            yield Region(start + low - begin, start + high - begin, f"/{file.path}, {section.name}")
