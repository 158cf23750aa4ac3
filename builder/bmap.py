"""Block maps (bmap-tools' format 2.0): which blocks of an image have content, and their digests.

What a map leaves out is never read: free clusters of the boot partition, and what lies behind the root's hash tree.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from xml.etree import ElementTree

BLOCK = 4096
_SLACK = 2**20
_CHUNK = 2**20
_NO_CHECKSUM = "0" * 64


@dataclass(frozen=True)
class Extent:
    """Where a file's content lies in an image.

    Args:
        start: in the image, in bytes, a multiple of BLOCK.
        size: in bytes; what goes beyond the file's end is zeros.
    """

    start: int
    size: int
    file: Path


@dataclass(frozen=True)
class Range:
    """Mapped blocks; `first` to `last`, both included, with the sha256 of their content."""

    first: int
    last: int
    sha256: str

    @property
    def start(self) -> int:
        """The first byte."""
        return self.first * BLOCK

    @property
    def size(self) -> int:
        """In bytes, before an image's odd end is cut off."""
        return (self.last - self.first + 1) * BLOCK


@dataclass(frozen=True)
class BlockMap:
    """A whole map."""

    image_size: int
    ranges: tuple[Range, ...]

    @property
    def mapped(self) -> int:
        """How many blocks are mapped."""
        return sum(entry.last - entry.first + 1 for entry in self.ranges)

    def text(self) -> str:
        """Write the map; its own checksum is that of the text with zeros in its place, as bmaptool checks it."""
        body = _TEMPLATE.format(
            size=self.image_size,
            block=BLOCK,
            blocks=-(-self.image_size // BLOCK),
            mapped=self.mapped,
            checksum=_NO_CHECKSUM,
            ranges="\n".join(f'        <Range chksum="{r.sha256}">{_numbers(r)}</Range>' for r in self.ranges),
        )
        return body.replace(_NO_CHECKSUM, hashlib.sha256(body.encode()).hexdigest(), 1)


_TEMPLATE = """\
<?xml version="1.0" ?>
<!-- Block map of the unpacked image: `bmaptool copy` and `./darkpipe flash` write and check the mapped blocks only. -->
<bmap version="2.0">
    <ImageSize>{size}</ImageSize>
    <BlockSize>{block}</BlockSize>
    <BlocksCount>{blocks}</BlocksCount>
    <MappedBlocksCount>{mapped}</MappedBlocksCount>
    <ChecksumType>sha256</ChecksumType>
    <BmapFileChecksum>{checksum}</BmapFileChecksum>
    <BlockMap>
{ranges}
    </BlockMap>
</bmap>
"""


def used_size(end_of_content: int, size: int) -> int:
    """Say how much of a FAT partition must be written.

    Args:
        end_of_content: where its last zeros begin, rounded up to 1 MiB.
        size: of the partition.

    Returns:
        A little more: zeros at the end of the last folder's cluster have a meaning, and may lie behind it.
    """
    return min(size, end_of_content + _SLACK)


def make_map(image_size: int, extents: Sequence[Extent]) -> BlockMap:
    """Map the content of an image that is put together from files."""
    ranges = []
    for extent in extents:
        blocks = -(-extent.size // BLOCK)
        first = extent.start // BLOCK
        with extent.file.open("rb") as file:
            digest = _digest_padded(file, blocks * BLOCK)
        ranges.append(Range(first, first + blocks - 1, digest))
    return BlockMap(image_size, tuple(ranges))


def parse_map(text: str) -> BlockMap:
    """Read a map of ours and check its own checksum.

    Raises:
        ValueError: it is none, or has been changed.
    """
    try:
        root = ElementTree.fromstring(text)  # noqa: S314 - expat of Python 3.11 has its own limits to expansion
        fields = {child.tag: (child.text or "").strip() for child in root}
        rows = root.findall("BlockMap/Range")
        ranges = tuple(_range(row) for row in rows)
        found = BlockMap(int(fields["ImageSize"]), ranges)
        checksum, block, mapped = fields["BmapFileChecksum"], int(fields["BlockSize"]), int(fields["MappedBlocksCount"])
    except (ElementTree.ParseError, KeyError, ValueError) as error:
        raise ValueError(f"it is no block map: {error!r}") from error
    if hashlib.sha256(text.replace(checksum, _NO_CHECKSUM, 1).encode()).hexdigest() != checksum:
        raise ValueError("its own checksum is wrong")
    if block != BLOCK or mapped != found.mapped:
        raise ValueError("its numbers do not fit together")
    edges = [number for entry in ranges for number in (entry.first, entry.last)]
    if edges != sorted(edges) or (ranges and ranges[-1].last >= -(-found.image_size // BLOCK)):
        raise ValueError("its ranges do not lie behind one another in the image")
    return found


def digest_of(file: BinaryIO, size: int) -> str:
    """Hash the next `size` bytes of a file; fewer when it ends before."""
    digest = hashlib.sha256()
    while size and (chunk := file.read(min(size, _CHUNK))):
        digest.update(chunk)
        size -= len(chunk)
    return digest.hexdigest()


def _digest_padded(file: BinaryIO, size: int) -> str:
    digest = hashlib.sha256()
    while size:
        length = min(size, _CHUNK)
        digest.update(file.read(length).ljust(length, b"\0"))
        size -= length
    return digest.hexdigest()


def _range(row: ElementTree.Element) -> Range:
    first, _, last = (row.text or "").strip().partition("-")
    return Range(int(first), int(last or first), row.attrib["chksum"])


def _numbers(entry: Range) -> str:
    return str(entry.first) if entry.first == entry.last else f"{entry.first}-{entry.last}"
