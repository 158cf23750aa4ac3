"""The root partition: erofs, and dm-verity's hash tree behind it."""

from __future__ import annotations

from collections.abc import Iterator

from builder.compare.reader import Reader
from builder.compare.regions import Region

FILE_SYSTEM = "erofs"
_SUPERBLOCK = 1024
_MAGIC = 0xE0F5E1E2
_DIGEST = 32


def root_regions(partition: Reader) -> Iterator[Region]:
    """Name the parts of a root partition.

    Raises:
        ValueError: there is no such file system, or no hash tree behind it.
    """
    if partition.unpack("<I", _SUPERBLOCK) != (_MAGIC,):
        raise ValueError("there is no erofs")
    (bits,) = partition.unpack("<B", _SUPERBLOCK + 12)
    (blocks,) = partition.unpack("<I", _SUPERBLOCK + 36)
    if bits > 16:
        raise ValueError("the block size of erofs is damaged")
    tree = -(-(blocks << bits) // 4096) * 4096
    if partition.read(tree, 8) != b"verity\0\0":
        raise ValueError("there is no hash tree of dm-verity behind the file system")
    block, hash_block = partition.unpack("<II", tree + 64)
    (count,) = partition.unpack("<Q", tree + 72)
    if block != 4096 or hash_block != 4096 or count * block != tree:
        raise ValueError("the superblock of dm-verity is damaged")
    yield Region(0, _SUPERBLOCK, f"{FILE_SYSTEM}, unused space before the superblock")
    yield Region(_SUPERBLOCK, _SUPERBLOCK + 128, f"{FILE_SYSTEM}, superblock")
    yield Region(_SUPERBLOCK + 128, tree, f"{FILE_SYSTEM}, blocks")
    end = tree + hash_block
    yield Region(tree, tree + 512, "dm-verity, superblock")
    yield Region(tree + 512, end, "dm-verity, unused space behind the superblock")
    for level, size in _levels(count, hash_block // _DIGEST):
        yield Region(end, end + size * hash_block, f"dm-verity, hash tree, level {level}")
        end += size * hash_block
    yield Region(end, partition.size, "unused space behind the hash tree")


def _levels(count: int, per_block: int) -> Iterator[tuple[int, int]]:
    """Yield level and blocks as they lie on the disk, the topmost first (dm-verity's on-disk format)."""
    sizes = []
    while count > 1:
        count = -(-count // per_block)
        sizes.append(count)
    yield from reversed(list(enumerate(sizes)))
