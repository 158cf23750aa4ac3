"""A small image with its map and sums, as `./darkpipe build` lays them out."""

from __future__ import annotations

import json
import random
from pathlib import Path

import zstandard

from builder.bmap import Extent, make_map
from builder.packing import Packing
from builder.sums import write_sums
from builder.xz import stored_stream

SIZE = 24 * 2**20
_EXTENTS = ((0, 2**20), (3 * 2**20, 6 * 2**20 + 4096), (23 * 2**20, 2**20))


def make_result(folder: Path, packing: Packing = Packing.ZSTD) -> Path:
    """Make a result's folder whose image has three mapped ranges; give the unpacked image beside it."""
    folder.mkdir()
    noise = random.Random(4)
    image = bytearray(SIZE)
    extents = []
    for number, (start, size) in enumerate(_EXTENTS):
        content = noise.randbytes(size)
        image[start : start + size] = content
        part = folder.parent / f"part-{number}"
        part.write_bytes(content)
        extents.append(Extent(start, size, part))
    raw = folder.parent / "raw"
    raw.write_bytes(image)
    if packing is Packing.XZ:
        packed = b"".join(stored_stream(raw, SIZE))
    else:
        packed = zstandard.ZstdCompressor().compress(bytes(image))
    (folder / f"sample.img.{packing}").write_bytes(packed)
    (folder / "sample.img.bmap").write_text(make_map(SIZE, extents).text())
    (folder / "manifest.json").write_text(json.dumps({"image": {"smallest_disk_bytes": SIZE + 2**20}}))
    write_sums(folder)
    return raw
