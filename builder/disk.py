"""The disk: a GPT partition table around finished partitions, put together from compressed frames."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from builder.frames import compress
from builder.profile import Content, Partition, Profile
from builder.root import Root
from builder.sandbox import Sandbox

_ALIGNMENT = 2**20
_SECTOR = 512


@dataclass(frozen=True)
class Placed:
    """A partition of the image and where it lies, in bytes."""

    partition: Partition
    start: int
    size: int


def place(profile: Profile) -> tuple[Placed, ...]:
    """Lay out the partitions that have content one behind the other, from 1 MiB on."""
    placed: list[Placed] = []
    start = _ALIGNMENT
    for partition in profile.partitions:
        if partition.content is not None:
            assert partition.size is not None  # what has content has a size, see the profile's model
            placed.append(Placed(partition, start, partition.size))
            start += partition.size
    return tuple(placed)


def disk_size(placed: Sequence[Placed]) -> int:
    """Size of the image in bytes: up to the end of its last partition, and the backup table in 1 MiB."""
    return placed[-1].start + placed[-1].size + _ALIGNMENT


def table_script(placed: Sequence[Placed], root: Root) -> str:
    """The partition table as sfdisk(8) reads it; every UUID follows from the root hash."""
    lines = ["label: gpt", f"label-id: {_uuid(root, 'disk')}", "unit: sectors", f"first-lba: {_ALIGNMENT // _SECTOR}"]
    for row in placed:
        is_root = row.partition.content is Content.ROOT
        own = root.partition_uuid if is_root else _uuid(root, row.partition.name)
        fields = (
            f"start={row.start // _SECTOR}",
            f"size={row.size // _SECTOR}",
            f"type={row.partition.type.uuid}",
            f"uuid={own}",
            f'name="{row.partition.label}"',
        )
        lines.append(", ".join(fields))
    return "\n".join(lines) + "\n"


def write_image(
    target: Path, placed: Sequence[Placed], root: Root, frames: Mapping[Content, Path], work: Path, tools: Sandbox
) -> None:
    """Write the compressed disk image.

    Args:
        frames: each partition's content as a zstd frame in the partition's size.
        work: an empty folder below the cache.
    """
    bare = work / "table.img"
    with bare.open("wb") as file:
        file.truncate(disk_size(placed))
    script = work / "table"
    script.write_text(table_script(placed, root))
    with script.open("rb") as stream:
        tools.run(["sfdisk", "--quiet", "--no-reread", "--no-tell-kernel", tools.inside(bare)], stdin=stream)
    with bare.open("rb") as file:
        (work / "head").write_bytes(file.read(_ALIGNMENT))
        file.seek(disk_size(placed) - _ALIGNMENT)
        (work / "tail").write_bytes(file.read(_ALIGNMENT))
    for name in ("head", "tail"):
        compress(work / name, work / f"{name}.zst", _ALIGNMENT, tools)
    contents = [frames[row.partition.content] for row in placed if row.partition.content]
    with target.open("wb") as image:
        for frame in (work / "head.zst", *contents, work / "tail.zst"):
            with frame.open("rb") as part:
                shutil.copyfileobj(part, image, 2**20)


def _uuid(root: Root, purpose: str) -> str:
    return str(uuid.uuid5(uuid.UUID(root.partition_uuid), purpose))
