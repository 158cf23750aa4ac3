"""Named byte ranges, and the ranges in which two files differ."""

from __future__ import annotations

import errno
import os
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

_CHUNK = 2**20
_BLOCK = 4096
_EXACT_BLOCKS = 2048
"""Differing blocks that are searched byte by byte; where more differ, whole blocks tell enough."""


@dataclass(frozen=True)
class Region:
    """A named stretch of a file.

    Args:
        start: its first byte.
        end: the byte behind its last one.
        name: what lies there.
    """

    start: int
    end: int
    name: str


@dataclass(frozen=True)
class Difference:
    """A stretch in which two files differ, within one region."""

    region: Region
    start: int
    end: int

    def __str__(self) -> str:
        length = self.end - self.start
        count = "1 byte" if length == 1 else f"{length:,} bytes"
        return f"{self.region.name}: {count} from {self.start - self.region.start:#x} on (in the file: {self.start:#x})"


class Map:
    """Regions that cover a file without a gap; later ones that are added lie on top of the earlier ones."""

    def __init__(self, size: int, name: str) -> None:
        self._regions = [Region(0, size, name)]

    def add(self, regions: Iterable[Region]) -> None:
        """Lay regions on top; what reaches over the end is cut off."""
        size = self._regions[-1].end
        for new in regions:
            top = Region(new.start, min(new.end, size), new.name)
            if top.start >= top.end:
                continue
            first = bisect_right(self._regions, top.start, key=lambda old: old.end)
            behind = bisect_left(self._regions, top.end, key=lambda old: old.start)
            low, high = self._regions[first], self._regions[behind - 1]
            parts = [Region(low.start, top.start, low.name), top, Region(top.end, high.end, high.name)]
            self._regions[first:behind] = [part for part in parts if part.start < part.end]

    def split(self, ranges: Iterable[tuple[int, int]]) -> list[Difference]:
        """Tell to which regions some ranges belong; those of one region become one."""
        found: dict[Region, Difference] = {}
        for start, end in ranges:
            for region in self._regions:
                low, high = max(start, region.start), min(end, region.end)
                if low < high:
                    known = found.get(region)
                    found[region] = Difference(region, known.start if known else low, high)
        return sorted(found.values(), key=lambda difference: difference.start)


def differing_ranges(first: Path, second: Path) -> list[tuple[int, int]]:
    """List where two files differ, as (first byte, byte behind the last); what only the longer one has differs."""
    found: list[tuple[int, int]] = []
    exact = _EXACT_BLOCKS
    with first.open("rb") as one, second.open("rb") as two:
        common, longer = sorted(os.fstat(file.fileno()).st_size for file in (one, two))
        for start, size in _data_chunks((one.fileno(), two.fileno()), common):
            a, b = os.pread(one.fileno(), size, start), os.pread(two.fileno(), size, start)
            for at in range(0, size if a != b else 0, _BLOCK):
                before, after = a[at : at + _BLOCK], b[at : at + _BLOCK]
                if before != after:
                    exact -= 1
                    runs = _runs(before, after) if exact > 0 else [(0, len(before))]
                    found += [(start + at + low, start + at + high) for low, high in runs]
    return _joined([*found, (common, longer)] if common < longer else found)


def _runs(before: bytes, after: bytes) -> list[tuple[int, int]]:
    return [(at, at + 1) for at in range(len(before)) if before[at] != after[at]]


def _joined(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    joined: list[tuple[int, int]] = []
    for start, end in ranges:
        if joined and joined[-1][1] == start:
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((start, end))
    return joined


def _data_chunks(descriptors: Sequence[int], end: int) -> Iterator[tuple[int, int]]:
    """Yield chunks (start, size) in which one of the files has data; where all have holes there are only zeros."""
    at = 0
    while at < end:
        at = max(at, min(_next_data(descriptor, at) for descriptor in descriptors) // _CHUNK * _CHUNK)
        if at < end:
            yield at, min(_CHUNK, end - at)
        at += _CHUNK


def _next_data(descriptor: int, at: int) -> int:
    try:
        return os.lseek(descriptor, at, os.SEEK_DATA)
    except OSError as error:
        if error.errno != errno.ENXIO:  # no data up to the end
            raise
        return 2**63
