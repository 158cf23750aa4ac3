"""Parts of a disk as xz streams (the .xz file format 1.2.1): streams behind one another are a valid file.

The root file system is compressed in itself: xz would take a minute to make it 2 % smaller. It is written as LZMA2
chunks that are not compressed, which any unpacker takes.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

_MAGIC = b"\xfd7zXZ\0"
_FOOTER_MAGIC = b"YZ"
_CHECK_CRC32 = b"\0\x01"
"""Stream flags, §2.1.1.2."""
_LZMA2 = b"\x21\x01\x08"
"""Filter id, length of its properties, and a dictionary of 64 KiB (§5.3.1): there is nothing to refer back to."""
_CHUNK = 2**16
"""The largest chunk that is not compressed."""
_FIRST, _NEXT, _END = b"\x01", b"\x02", b"\0"
"""Control octets of LZMA2: a chunk as it is, after and without a reset of the dictionary; the end."""


def stored_stream(source: Path, size: int) -> Iterator[bytes]:
    """Write the beginning of a file as one xz stream, without compressing it.

    Args:
        size: in bytes; 0 makes no stream at all.

    Yields:
        The stream, in pieces.
    """
    if size == 0:
        return
    yield _MAGIC + _CHECK_CRC32 + _crc32(_CHECK_CRC32)
    # §3.1: size of the header in words less one, one filter, no sizes; padded to whole words.
    header = b"\x02\0" + _LZMA2 + bytes(3)
    yield header + _crc32(header)
    block = len(header) + 4
    check = 0
    with source.open("rb") as file:
        for control, chunk in _chunks(file, size):
            check = zlib.crc32(chunk, check)
            data = control + (len(chunk) - 1).to_bytes(2, "big") + chunk
            block += len(data)
            yield data
    block += len(_END)
    yield _END + bytes(-block % 4) + check.to_bytes(4, "little")
    index = b"\0" + _integer(1) + _integer(block + 4) + _integer(size)
    index += bytes(-len(index) % 4)
    yield index + _crc32(index)
    footer = (len(index) // 4).to_bytes(4, "little") + _CHECK_CRC32
    yield _crc32(footer) + footer + _FOOTER_MAGIC


def _chunks(file: BinaryIO, size: int) -> Iterator[tuple[bytes, bytes]]:
    control = _FIRST
    while size and (chunk := file.read(min(size, _CHUNK))):
        yield control, chunk
        control = _NEXT
        size -= len(chunk)


def _crc32(data: bytes) -> bytes:
    return zlib.crc32(data).to_bytes(4, "little")


def _integer(number: int) -> bytes:
    """Write a number in 7 bits an octet, the lowest first (§1.2)."""
    octets = bytearray()
    while number >= 0x80:
        octets.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*octets, number])
