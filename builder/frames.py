"""Parts of a disk as zstd frames (RFC 8878): frames behind one another are a valid file.

Most of a disk image is empty. Its zeros are written as one frame that needs no compressor, so that neither building nor
caching ever touches gigabytes of nothing.
"""

from __future__ import annotations

from pathlib import Path

_CHUNK = 2**20
_BLOCK = 128 * 1024
"""The largest block, RFC 8878 §3.1.1.2.4."""

_MAGIC = (0xFD2FB528).to_bytes(4, "little")
_NO_CONTENT_SIZE = b"\x00"
_WINDOW_128_KIB = b"\x38"
_RLE_BLOCK = 1


def end_of_content(path: Path) -> int:
    """Find where a file's last stretch of zeros begins.

    Returns:
        The file's size, or a multiple of 1 MiB behind which there are only zeros.
    """
    nothing = bytes(_CHUNK)
    end = path.stat().st_size
    with path.open("rb") as file:
        while end:
            start = (end - 1) // _CHUNK * _CHUNK
            file.seek(start)
            if file.read(end - start) != nothing[: end - start]:
                return end
            end = start
    return end


def zero_frame(size: int) -> bytes:
    """Make a frame that unpacks to zeros; each block says "this byte, so many times" (RFC 8878 §3.1.1.2).

    Args:
        size: in bytes; 0 makes no frame at all.
    """
    if size == 0:
        return b""
    full, rest = divmod(size, _BLOCK)
    lengths = [_BLOCK] * full + ([rest] if rest else [])
    blocks = [_rle_block(length, last=False) for length in lengths[:-1]]
    return b"".join([_MAGIC, _NO_CONTENT_SIZE, _WINDOW_128_KIB, *blocks, _rle_block(lengths[-1], last=True)])


def _rle_block(length: int, *, last: bool) -> bytes:
    header = length << 3 | _RLE_BLOCK << 1 | int(last)
    return header.to_bytes(3, "little") + b"\x00"
