"""The sections of a PE file, such as a unified kernel image (PE/COFF specification; UAPI.5)."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from builder.compare.regions import Region

_ROW = 40


def pe_sections(head: bytes) -> Iterator[Region]:
    """Name headers and sections of a PE file; nothing when it is none.

    Args:
        head: its first 4 KiB or more.
    """
    if head[:2] != b"MZ" or len(head) < 0x40:
        return
    (start,) = struct.unpack_from("<I", head, 0x3C)
    if head[start : start + 4] != b"PE\0\0":
        return
    (count,) = struct.unpack_from("<H", head, start + 6)
    (optional,) = struct.unpack_from("<H", head, start + 20)
    first = start + 24 + optional
    yield Region(0, first + count * _ROW, "PE headers")
    for at in range(first, min(first + count * _ROW, len(head) - _ROW), _ROW):
        name = head[at : at + 8].rstrip(b"\0").decode("ascii", errors="replace")
        size, offset = struct.unpack_from("<II", head, at + 16)
        yield Region(offset, offset + size, f"section {name}")
