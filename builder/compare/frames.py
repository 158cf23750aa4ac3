"""The structure of a zstd file (RFC 8878 §3.1): frames, headers, blocks, checksums."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from builder.compare.regions import Region

_MAGIC = (0xFD2FB528).to_bytes(4, "little")
_RLE = 1


@dataclass(frozen=True)
class Frame:
    """One frame.

    Args:
        start: its first byte.
        end: the byte behind its last one.
        zeros: bytes of zeros that it unpacks to, when it holds nothing else; else None.
        parts: its header, its blocks and their headers, its checksum.
    """

    start: int
    end: int
    zeros: int | None
    parts: tuple[Region, ...]


def read_frames(data: bytes) -> tuple[list[Frame], str]:
    """Read the frames that a file begins with.

    Returns:
        The whole frames, and what is wrong behind them; empty when nothing is.
    """
    frames: list[Frame] = []
    at = 0
    while at < len(data):
        try:
            frames.append(_read_frame(data, at))
        except ValueError as error:
            return frames, f"frame {len(frames) + 1}: {error}"
        at = frames[-1].end
    return frames, ""


def _read_frame(data: bytes, start: int) -> Frame:
    if data[start : start + 4] != _MAGIC:
        raise ValueError("does not begin with zstd's magic number")
    if start + 9 > len(data):  # magic number, descriptor, one byte more of header, and one empty block
        raise ValueError("ends too early")
    descriptor = data[start + 4]
    single = descriptor >> 5 & 1
    # §3.1.1.1.1: window descriptor, dictionary id, content size.
    header = start + 5 + (1 - single) + (0, 1, 2, 4)[descriptor & 3] + (single, 2, 4, 8)[descriptor >> 6]
    parts = [Region(start, header, "header")]
    at, zeros, last, number = header, 0, False, 0
    only_zeros = True
    while not last:
        number += 1
        if at + 3 > len(data):
            raise ValueError(f"ends before block {number}")
        field = int.from_bytes(data[at : at + 3], "little")
        last, kind, size = bool(field & 1), field >> 1 & 3, field >> 3
        stored = 1 if kind == _RLE else size
        only_zeros = only_zeros and kind == _RLE and data[at + 3 : at + 4] == b"\0"
        zeros += size
        parts += [
            Region(at, at + 3, f"header of block {number}"),
            Region(at + 3, at + 3 + stored, f"block {number}"),
        ]
        at += 3 + stored
    if descriptor >> 2 & 1:
        parts.append(Region(at, at + 4, "checksum"))
        at += 4
    if at > len(data):
        raise ValueError("ends too early")
    return Frame(start, at, zeros if only_zeros else None, tuple(parts))


def frame_regions(frames: list[Frame]) -> Iterator[Region]:
    """Name the parts of all frames."""
    for number, frame in enumerate(frames, start=1):
        for part in frame.parts:
            yield Region(part.start, part.end, f"compressed file, frame {number}, {part.name}")
