"""The root file system: package layer and project layer as one tar, and as erofs with dm-verity."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path

from builder.digests import content_id, file_digest
from builder.errors import BuildError
from builder.packages import BUILD_EPOCH, PackageLayer
from builder.packing import Packing, pack
from builder.profile import Content, Profile
from builder.project import ProjectLayer
from builder.sandbox import Sandbox
from builder.tar import end_of_members
from builder.workshop import Stage, Workshop

_COMPRESSION = "lz4"
"""Five times faster to make than lz4hc, and only 4 % larger once the image is compressed."""
_BLOCK = 4096
_DIGEST = "digest"


@dataclass(frozen=True)
class Root:
    """A finished root.

    Args:
        folder: holds `root.erofs` (file system, then hash tree) and `root.frame` (the partition, compressed).
        root_hash: dm-verity's root hash, 64 hexadecimal digits.
        tree_offset: where the hash tree begins in the partition, in bytes.
    """

    folder: Path
    root_hash: str
    tree_offset: int

    @property
    def image(self) -> Path:
        """The content of the root partition, without the padding behind it."""
        return self.folder / "root.erofs"

    @property
    def frame(self) -> Path:
        """The root partition in its full size, compressed."""
        return self.folder / "root.frame"

    @property
    def partition_uuid(self) -> str:
        """The partition's UUID: the root hash's first half, as in the Discoverable Partitions Specification."""
        return str(uuid.UUID(hex=self.root_hash[:32]))


@dataclass(frozen=True)
class RootTar:
    """A whole root file system.

    Args:
        path: the tar.
        digest: its sha256.
    """

    path: Path
    digest: str


def root_tar(shop: Workshop, profile: Profile, packages: PackageLayer, project: ProjectLayer) -> RootTar:
    """Give `root.tar`: the package layer with the project layer behind it, whose files win."""
    inputs = {"profile": profile.name, "packages": packages.digest, "project": project.digest}
    code = ("root.py", "tar.py")
    entry = shop.stage(Stage.TAR, inputs, code, lambda made, _: _join(made, packages.tar, project.tar))
    return RootTar(entry / "root.tar", (entry / _DIGEST).read_text())


def verified_root(shop: Workshop, profile: Profile, tar: RootTar) -> Root:
    """Give the root partition's content.

    Raises:
        BuildError: it does not fit into its partition.
    """
    size = profile.partition(Content.ROOT).size
    assert size is not None  # only the last partition has none
    inputs = {
        "profile": profile.name,
        "tar": tar.digest,
        "compression": _COMPRESSION,
        "size": size,
        "packing": profile.packing,
    }
    code = ("root.py", "frames.py", "packing.py", "xz.py")
    entry = shop.stage(Stage.ROOT, inputs, code, lambda made, _: _build(made, tar, size, profile.packing, shop.tools))
    root_hash, offset = (entry / "verity").read_text().split()
    return Root(entry, root_hash, int(offset))


def _join(made: Path, first: Path, second: Path) -> None:
    target = made / "root.tar"
    shutil.copyfile(first, target)
    os.truncate(target, end_of_members(first))
    with target.open("ab") as joined, second.open("rb") as rest:
        shutil.copyfileobj(rest, joined)
    (made / _DIGEST).write_text(file_digest(target))


def _build(made: Path, tar: RootTar, size: int, packing: Packing, tools: Sandbox) -> None:
    # Salt and UUIDs: random ones would make every build another image, and those of an entry's id, which covers the
    # tools' versions, another one for every user.
    identifier = content_id({"tar": tar.digest, "compression": _COMPRESSION})
    image = made / "root.erofs"
    inside = tools.inside(image)
    environment = {"SOURCE_DATE_EPOCH": str(BUILD_EPOCH)}
    with tar.path.open("rb") as stream:
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
    pack(image, made / "root.frame", size, tools, packing, stored=True)


def _uuid(identifier: str, purpose: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_OID, f"{identifier} {purpose}"))
