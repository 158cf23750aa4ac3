"""The log of what a machine has written to its disk, and what a power cut would have left of it.

The format is that of Linux's Documentation/admin-guide/device-mapper/log-writes.rst, as QEMU writes it
(block/blklogwrites.c): a super block, then for each request a sector with its header and the data behind it. A request
is logged when it is done and before the machine is told so. A write that was under way during a flush may therefore
stand before it though the flush does not vouch for it; it is taken for durable here.

What is durable at a cut: all before the last flush, and later writes with FUA. Of the other writes any may be there,
whole or torn at a sector. A discard has no effect here: a disk may keep what was discarded.
"""

from __future__ import annotations

import os
import random
import struct
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntFlag
from pathlib import Path

_MAGIC = 0x6A736677736872
_VERSION = 1
_SUPER = struct.Struct("<QQQI")
_HEADER = struct.Struct("<QQQQ")
_CHUNK = 1 << 20


class Flag(IntFlag):
    """What kind of request it was (drivers/md/dm-log-writes.c)."""

    FLUSH = 1
    FUA = 2
    DISCARD = 4
    MARK = 8


class WriteLogError(Exception):
    """It is no log of this format."""


@dataclass(frozen=True)
class Request:
    """One request to the disk; all numbers in bytes.

    Args:
        offset: where on the disk.
        length: how much.
        flags: its kind.
        header_at: where its header lies in the log.
        data_at: where its data begins in the log.
    """

    offset: int
    length: int
    flags: Flag
    header_at: int
    data_at: int

    @property
    def writes(self) -> bool:
        """Whether it has data."""
        return bool(self.length) and not self.flags & (Flag.DISCARD | Flag.MARK)


@dataclass(frozen=True)
class Piece:
    """Part of a request's data that is on the disk after a cut."""

    offset: int
    length: int
    data_at: int


@dataclass(frozen=True)
class WriteLog:
    """All requests in their order; a cut at position n comes after the first n of them."""

    path: Path
    sector: int
    requests: tuple[Request, ...]

    @classmethod
    def read(cls, path: Path) -> WriteLog:
        """Read the log of a machine that is off.

        Raises:
            WriteLogError: it is none, or is cut off.
        """
        with path.open("rb") as file:
            start = file.read(_SUPER.size)
            if len(start) < _SUPER.size:
                raise WriteLogError(f"{path}: shorter than a super block")
            magic, version, count, sector = _SUPER.unpack(start)
            if (magic, version) != (_MAGIC, _VERSION):
                raise WriteLogError(f"{path}: no log of writes, version {_VERSION}")
            requests = []
            at = sector
            for number in range(count):
                file.seek(at)
                header = file.read(_HEADER.size)
                if len(header) < _HEADER.size:
                    raise WriteLogError(f"{path}: ends at request {number} of {count}")
                start_sector, sectors, flags, marked = _HEADER.unpack(header)
                request = Request(start_sector * sector, sectors * sector, Flag(flags), at, at + sector)
                requests.append(request)
                behind = request.length if request.writes else -(-marked // sector) * sector
                at = request.data_at + behind
        return cls(path, sector, tuple(requests))

    def position_of_size(self, size: int) -> int:
        """Turn the size that the log's file had at a moment into the number of requests that were done by then.

        Requests that were under way are counted: the position is an upper bound.
        """
        return bisect_left(self.requests, size, key=lambda request: request.header_at)

    def last_flush(self, position: int) -> int:
        """Give the position just behind the last flush before a cut; 0 when there was none."""
        for number in range(position, 0, -1):
            if self.requests[number - 1].flags & Flag.FLUSH:
                return number
        return 0

    def durable(self, start: int, position: int) -> Iterator[Piece]:
        """Give what requests of a range have written."""
        return (_whole(request) for request in self.requests[start:position] if request.writes)

    def in_the_air(self, position: int, rng: random.Random | None) -> Iterator[Piece]:
        """Give what a cut leaves of the requests since the last flush.

        Args:
            rng: chooses what has reached the disk; None leaves nothing but what it must.
        """
        kept = rng.choice((0.1, 0.5, 0.9)) if rng else 0.0
        for request in self.requests[self.last_flush(position) : position]:
            if not request.writes:
                continue
            if request.flags & Flag.FUA:
                yield _whole(request)
            elif rng and rng.random() < kept:
                yield from self._torn(request, rng) if rng.random() < 0.25 else [_whole(request)]

    def _torn(self, request: Request, rng: random.Random) -> Iterator[Piece]:
        """A part of the sectors, from the front as most disks write them, or scattered."""
        count = request.length // self.sector
        front = rng.random() < 0.5
        chosen = range(rng.randrange(count)) if front else [n for n in range(count) if rng.random() < 0.5]
        for number in chosen:
            at = number * self.sector
            yield Piece(request.offset + at, self.sector, request.data_at + at)


def write_pieces(pieces: Iterator[Piece] | Sequence[Piece], log: Path, disk: Path) -> None:
    """Write data of a log to a disk, in the order given; where zeros meet a hole, the hole stays."""
    with log.open("rb") as source, disk.open("r+b") as target:
        for piece in pieces:
            for start in range(0, piece.length, _CHUNK):
                source.seek(piece.data_at + start)
                data = source.read(min(_CHUNK, piece.length - start))
                at = piece.offset + start
                if data == bytes(len(data)) and _is_hole(target.fileno(), at, len(data)):
                    continue
                target.seek(at)
                target.write(data)
                target.flush()


def _is_hole(descriptor: int, at: int, length: int) -> bool:
    try:
        return os.lseek(descriptor, at, os.SEEK_DATA) >= at + length
    except OSError:  # ENXIO: no data from here to the end
        return True


def _whole(request: Request) -> Piece:
    return Piece(request.offset, request.length, request.data_at)
