"""The root file system: package layer and project layer as one tar, and as erofs with dm-verity."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path

from builder.cache import content_id
from builder.errors import BuildError
from builder.frames import compress
from builder.packages import BUILD_EPOCH, PackageLayer
from builder.profile import Content, Profile
from builder.project import end_of_members
from builder.sandbox import Sandbox
from builder.workshop import Workshop

_COMPRESSION = "lz4"
"""Five times faster to make than lz4hc, and only 4 % larger once the image is compressed."""
_BLOCK = 4096
_LAYOUT = 2
"""Raise it when the way in which the root is made changes."""


@dataclass(frozen=True)
class Root:
    """A finished root.

    Args:
        folder: holds `root.tar`, `root.erofs` (file system, then hash tree) and `root.zst` (the partition, compressed).
        root_hash: dm-verity's root hash, 64 hexadecimal digits.
        tree_offset: where the hash tree begins in the partition, in bytes.
    """

    folder: Path
    root_hash: str
    tree_offset: int

    @property
    def tar(self) -> Path:
        """The whole root file system, what every shell of the home stack is made from."""
        return self.folder / "root.tar"

    @property
    def image(self) -> Path:
        """The content of the root partition, without the padding behind it."""
        return self.folder / "root.erofs"

    @property
    def frame(self) -> Path:
        """The root partition in its full size as one zstd frame."""
        return self.folder / "root.zst"

    @property
    def partition_uuid(self) -> str:
        """The partition's UUID: the root hash's first half, as in the Discoverable Partitions Specification."""
        return str(uuid.UUID(hex=self.root_hash[:32]))


def root_tar(shop: Workshop, packages: PackageLayer, project: Path) -> Path:
    """Give `root.tar`: the package layer with the project layer behind it, whose files win."""
    inputs = {"layout": _LAYOUT, "packages": packages.identifier, "project": project.name}
    made = shop.stage("Root tar", "tar", inputs, lambda made, _: _join(made, packages.tar, project / "root.tar"))
    return made / "root.tar"


def verified_root(shop: Workshop, profile: Profile, tar: Path) -> Root:
    """Give the root partition's content.

    Raises:
        BuildError: it does not fit into its partition.
    """
    size = profile.partition(Content.ROOT).size
    assert size is not None  # only the last partition has none
    inputs = {"layout": _LAYOUT, "tar": tar.parent.name, "compression": _COMPRESSION, "size": size}
    identifier = content_id(inputs)
    entry = shop.stage(
        "Root file system", "root", inputs, lambda made, _: _build(made, tar, size, identifier, shop.tools)
    )
    root_hash, offset = (entry / "verity").read_text().split()
    return Root(entry, root_hash, int(offset))


def _join(made: Path, first: Path, second: Path) -> None:
    target = made / "root.tar"
    shutil.copyfile(first, target)
    os.truncate(target, end_of_members(first))
    with target.open("ab") as joined, second.open("rb") as rest:
        shutil.copyfileobj(rest, joined)


def _build(made: Path, tar: Path, size: int, identifier: str, tools: Sandbox) -> None:
    image = made / "root.erofs"
    inside = tools.inside(image)
    environment = {"SOURCE_DATE_EPOCH": str(BUILD_EPOCH)}
    with tar.open("rb") as stream:
        tools.run(
            [
                "mkfs.erofs",
                "--quiet",
                "--tar=f",
                f"-z{_COMPRESSION}",
                f"-U{_uuid(identifier, 'erofs')}",
                "-Enosbcrc",
                inside,
            ],
            stdin=stream,
            environment=environment,
        )
    offset = image.stat().st_size
    offset += -offset % _BLOCK
    os.truncate(image, offset)
    # Salt and UUID come from the inputs: a random one would make every build another image.
    output = tools.run(
        [
            "veritysetup",
            "format",
            f"--salt={hashlib.sha256(f'{identifier} salt'.encode()).hexdigest()}",
            f"--uuid={_uuid(identifier, 'verity')}",
            f"--data-blocks={offset // _BLOCK}",
            f"--hash-offset={offset}",
            inside,
            inside,
        ]
    )
    match = re.search(r"^Root hash:\s+([0-9a-f]{64})$", output, re.MULTILINE)
    if not match:
        raise BuildError(f"veritysetup printed no root hash:\n{output}")
    used = image.stat().st_size
    if used > size:
        raise BuildError(f"the root needs {used:,} bytes and its partition has {size:,}", "leave out a component")
    (made / "verity").write_text(f"{match.group(1)} {offset}\n")
    compress(image, made / "root.zst", size, tools)


def _uuid(identifier: str, purpose: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_OID, f"{identifier} {purpose}"))
