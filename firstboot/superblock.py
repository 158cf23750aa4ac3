"""btrfs's superblock: reading whose it is, and mending it after a power cut in the middle of its 4096 bytes.

btrfs takes for granted that a disk writes these as one, and refuses to mount what fits no checksum. Disks with sectors
of 512 bytes promise that only for each sector. What matters lies in the first one: the generation, the roots of the
trees and of the log (on-disk format, `struct btrfs_super_block`); the others hold what rarely changes, and copies of
earlier roots. So a torn superblock is the old or the new one but for its checksum, and both are good: what they lead
to was flushed before. The mirror that `btrfs rescue super-recover` would take knows nothing of the log: messages that
were acknowledged since the last full commit would be lost.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

_OFFSET = 65536
_SIZE = 4096
_SUMMED_FROM = 32
_CHECKSUM = struct.Struct("<I")
_PLACE = struct.Struct("<Q")
_PLACE_AT = 48
_MAGIC = b"_BHRfS_M"
_MAGIC_AT = 64
_USED_AT = 120
_KIND = struct.Struct("<H")
_KIND_AT = 196
_CRC32C = 0
_UUID = slice(32, 48)
_LABEL = slice(299, 299 + 256)


@dataclass(frozen=True)
class Btrfs:
    """What tells a btrfs from others.

    Args:
        used: bytes that it holds, of its own ones, too: 144 KiB when it is new.
    """

    uuid: UUID
    label: str
    used: int = 0


def read_btrfs(device: Path) -> Btrfs | None:
    """Read whose file system lies on a device; also when a power cut has torn the superblock, unlike blkid(8).

    Returns:
        None when there is no btrfs, or the device cannot be read.
    """
    try:
        with device.open("rb") as file:
            file.seek(_OFFSET)
            block = file.read(_SIZE)
    except OSError:  # a card reader without a card, a disk that was pulled out a moment ago
        return None
    if not _is_superblock(block):
        return None
    label = block[_LABEL].split(b"\0", 1)[0].decode(errors="replace")
    return Btrfs(UUID(bytes=block[_UUID]), label, *_PLACE.unpack_from(block, _USED_AT))


def mend_superblock(device: Path) -> bool:
    """Write the right checksum into a btrfs's first superblock that has a wrong one.

    Whether the file system can be mounted then, mount(8) has to try: each block that it leads to has its own checksum
    and generation.

    Args:
        device: not mounted.

    Returns:
        Whether it was mended; False when there is none, or nothing wrong with it.

    Raises:
        OSError: the device cannot be read or written.
    """
    descriptor = os.open(device, os.O_RDWR)
    try:
        block = os.pread(descriptor, _SIZE, _OFFSET)
        if not _is_superblock(block):
            return False
        right = _CHECKSUM.pack(crc32c(block[_SUMMED_FROM:]))
        if block.startswith(right):
            return False
        # The whole first sector, and nothing else: it is written or it is not.
        os.pwrite(descriptor, right + block[len(right) : 512], _OFFSET)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return True


def crc32c(data: bytes) -> int:
    """Give the checksum of RFC 3720 §12.1 (Castagnoli); Python has only the other CRC-32."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def _is_superblock(block: bytes) -> bool:
    return (
        len(block) == _SIZE
        and block[_MAGIC_AT : _MAGIC_AT + len(_MAGIC)] == _MAGIC
        and _PLACE.unpack_from(block, _PLACE_AT) == (_OFFSET,)
        and _KIND.unpack_from(block, _KIND_AT) == (_CRC32C,)
    )
