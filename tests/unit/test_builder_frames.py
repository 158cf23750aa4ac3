"""Frames of zeros, as the real zstd reads them."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

import pytest
import zstandard

from builder.frames import end_of_content, zero_frame


def _unpack(packed: bytes) -> bytes:
    return bytes(zstandard.ZstdDecompressor().stream_reader(packed, read_across_frames=True).read())


@pytest.mark.parametrize("size", [0, 1, 4096, 131071, 131072, 131073, 3 * 131072, 10_000_001])
def test_zero_frame_unpacks_to_zeros(size: int) -> None:
    assert _unpack(zero_frame(size)) == bytes(size)


def test_zeros_behind_content() -> None:
    content = random.Random(1).randbytes(300_000)
    packed = zstandard.ZstdCompressor().compress(content) + zero_frame(200_000) + zero_frame(7)
    assert hashlib.sha256(_unpack(packed)).digest() == hashlib.sha256(content + bytes(200_007)).digest()


def test_three_gigabytes_of_zeros_are_small() -> None:
    assert len(zero_frame(3 * 2**30)) < 100_000


@pytest.mark.parametrize(
    ("content", "size", "expected"),
    [
        (b"", 0, 0),
        (b"", 5 * 2**20, 0),
        (b"x", 2**20 + 5, 2**20),
        (b"x", 1, 1),
        (b"\0" * 2**20 + b"x", 2**21 + 9, 2**21),
    ],
)
def test_end_of_content(tmp_path: Path, content: bytes, size: int, expected: int) -> None:
    path = tmp_path / "file"
    with path.open("wb") as file:
        file.write(content)
        file.truncate(size)
    assert end_of_content(path) == expected
