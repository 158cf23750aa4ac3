"""The disk: a partition table around finished partitions, put together from compressed parts."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from builder.bmap import Extent
from builder.packing import pack, zeros
from builder.profile import Content, Partition, Profile
from builder.root import Root
from builder.sandbox import Sandbox
from model.layout import Table

_ALIGNMENT = 2**20
_SECTOR = 512
_CLEARED = 2 * 2**20
"""Bytes at the beginning of a partition for the device to format: what an older image has left there must go."""


@dataclass(frozen=True)
class Placed:
    """A partition of the image and where it lies, in bytes."""

    number: int
    partition: Partition
    start: int
    size: int

    @property
    def end(self) -> int:
        """The first byte behind it."""
        return self.start + self.size


@dataclass(frozen=True)
class Part:
    """The finished content of a partition.

    Args:
        image: its bytes; it may be shorter than the partition.
        frame: the partition in its full size, compressed.
        used: bytes from its beginning that must be written to a disk; all others are zeros and mean nothing.
    """

    image: Path
    frame: Path
    used: int


def place(profile: Profile) -> tuple[Placed, ...]:
    """Lay out the partitions one behind the other, from 1 MiB on.

    With GPT those that have content, since the device makes the others. With MBR all of them; a logical partition has
    1 MiB before it for the sector that describes it.
    """
    placed: list[Placed] = []
    start = _ALIGNMENT
    for number, partition in profile.numbered():
        if profile.table is Table.GPT and partition.content is None:
            continue
        size = partition.start_size or partition.size
        assert size is not None  # see the profile's model
        if _is_logical(profile, number):
            start += _ALIGNMENT
        placed.append(Placed(number, partition, start, size))
        start += size
    return tuple(placed)


def disk_size(profile: Profile) -> int:
    """Size of the image in bytes: up to the end of its last partition, and GPT's backup table in 1 MiB."""
    return place(profile)[-1].end + (_ALIGNMENT if profile.table is Table.GPT else 0)


def disk_id(root: Root) -> str:
    """The identifier of a disk with an MBR, 8 hexadecimal digits; the kernel's PARTUUIDs are made of it."""
    return root.root_hash[:8]


def root_partition_id(profile: Profile, root: Root) -> str:
    """How the kernel names the root's partition: its PARTUUID."""
    if profile.table is Table.GPT:
        return root.partition_uuid
    number = next(row.number for row in place(profile) if row.partition.content is Content.ROOT)
    return f"{disk_id(root)}-{number:02x}"


def table_script(profile: Profile, root: Root) -> str:
    """The partition table as sfdisk(8) reads it; every identifier follows from the root hash."""
    placed = place(profile)
    if profile.table is Table.DOS:
        return _dos_script(placed, root)
    lines = ["label: gpt", f"label-id: {_uuid(root, 'disk')}", "unit: sectors", f"first-lba: {_ALIGNMENT // _SECTOR}"]
    for row in placed:
        is_root = row.partition.content is Content.ROOT
        own = root.partition_uuid if is_root else _uuid(root, row.partition.name)
        lines.append(f'{_row(row, Table.GPT)}, uuid={own}, name="{row.partition.label}"')
    return "\n".join(lines) + "\n"


def _dos_script(placed: Sequence[Placed], root: Root) -> str:
    lines = ["label: dos", f"label-id: 0x{disk_id(root)}", "unit: sectors"]
    extended = False
    for row in placed:
        if row.number > 4 and not extended:
            start, size = row.start - _ALIGNMENT, placed[-1].end - row.start + _ALIGNMENT
            lines.append(f"4 : start={start // _SECTOR}, size={size // _SECTOR}, type=f")
            extended = True
        lines.append(f"{row.number} : {_row(row, Table.DOS)}")
    return "\n".join(lines) + "\n"


def _row(row: Placed, table: Table) -> str:
    kind = row.partition.type.code(table)
    return f"start={row.start // _SECTOR}, size={row.size // _SECTOR}, type={kind}"


def write_image(
    target: Path, profile: Profile, root: Root, parts: Mapping[Content, Part], work: Path, tools: Sandbox
) -> list[Extent]:
    """Write the compressed disk image.

    Args:
        parts: the content of the partitions that have some.
        work: a folder below the cache.

    Returns:
        What must be written to a disk: everything but zeros without a meaning.
    """
    bare = work / "table.img"
    with bare.open("wb") as file:
        file.truncate(disk_size(profile))
    script = work / "table"
    script.write_text(table_script(profile, root))
    with script.open("rb") as stream:
        tools.run(["sfdisk", "--quiet", "--no-reread", "--no-tell-kernel", tools.inside(bare)], stdin=stream)
    extents = []
    with target.open("wb") as image:
        for start, end, row in _pieces(profile):
            part = parts.get(row.partition.content) if row and row.partition.content else None
            if part:
                frame, extent = part.frame, Extent(start, part.used, part.image)
            elif row:
                frame, cleared = work / f"empty-{row.number}.frame", work / f"empty-{row.number}"
                frame.write_bytes(zeros(row.size, tools, profile.packing))
                cleared.touch()
                extent = Extent(start, min(row.size, _CLEARED), cleared)
            else:
                frame, content = work / f"table-{start}.frame", work / f"table-{start}"
                content.write_bytes(_cut(bare, start, end))
                pack(content, frame, end - start, tools, profile.packing)
                extent = Extent(start, end - start, content)
            with frame.open("rb") as stream:
                shutil.copyfileobj(stream, image, 2**20)
            extents.append(extent)
    return extents


def _pieces(profile: Profile) -> Iterator[tuple[int, int, Placed | None]]:
    """Cut the disk into partitions and what the table has between them, without a gap."""
    position = 0
    for row in place(profile):
        if row.start > position:
            yield position, row.start, None
        yield row.start, row.end, row
        position = row.end
    if position < disk_size(profile):
        yield position, disk_size(profile), None


def _cut(path: Path, start: int, end: int) -> bytes:
    with path.open("rb") as file:
        file.seek(start)
        return file.read(end - start)


def _is_logical(profile: Profile, number: int) -> bool:
    return profile.table is Table.DOS and number > 4


def _uuid(root: Root, purpose: str) -> str:
    return str(uuid.uuid5(uuid.UUID(root.partition_uuid), purpose))
