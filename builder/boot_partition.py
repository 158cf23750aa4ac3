"""The boot partitions: finished FAT file systems with what starts the system, and the seed of one site."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from builder import raspberry_pi, systemd_boot
from builder.bmap import used_size
from builder.digests import content_id, file_digest
from builder.disk import Part, disk_id, root_partition_id
from builder.frames import end_of_content
from builder.packages import BUILD_EPOCH, PackageLayer
from builder.packing import Packing, pack
from builder.profile import Content, Loader, Partition, Profile
from builder.root import Root
from builder.sandbox import Sandbox
from builder.seed import Seed
from builder.version import VERSION
from builder.workshop import Stage, Workshop
from model.layout import Table

_CODE = ("boot_partition.py", "frames.py", "packing.py", "raspberry_pi.py", "systemd_boot.py", "xz.py")

Parts = Mapping[Content, Part]
"""The FAT partitions of an image."""


def boot_partitions(shop: Workshop, profile: Profile, packages: PackageLayer, root: Root) -> Parts:
    """Give the generic FAT partitions, the same for everybody."""
    wanted = [partition for partition in profile.partitions if partition.content not in (None, Content.ROOT)]
    inputs = {
        "version": VERSION,
        "epoch": BUILD_EPOCH,
        "profile": profile.name,
        "packages": packages.digest,
        "root": root.root_hash,
        "command line": command_line(profile, root),
        "loader": profile.loader,
        "packing": profile.packing,
        "partitions": [partition.model_dump(mode="json") for partition in wanted],
    }

    def make(made: Path, _: object) -> None:
        for partition in wanted:
            assert partition.content is not None
            tree = made.parent / "tree" / partition.content
            tree.mkdir(parents=True)
            _fill(profile, partition.content)(tree, shop.tools, profile, packages, command_line(profile, root))
            _make_fat(made, tree, shop.tools, partition, root, profile.packing)

    entry = shop.stage(Stage.BOOT, inputs, _CODE, make)
    return {
        content: _part(entry / f"{content}.img", entry / f"{content}.frame", partition)
        for partition in wanted
        if (content := partition.content)
    }


def seeded(parts: Parts, profile: Profile, seed: Seed, work: Path, tools: Sandbox) -> Parts:
    """Copy the generic partition that takes the seed into a workspace, and put it there."""
    image, frame = work / "seeded.img", work / "seeded.frame"
    tools.run(["cp", "--sparse=always", tools.inside(parts[profile.seed].image), tools.inside(image)])
    for name, text in seed.files().items():
        source = work / name
        source.touch(mode=0o600)
        source.write_text(text, encoding="utf-8")
        os.utime(source, (BUILD_EPOCH, BUILD_EPOCH))
        tools.run(["mcopy", "-i", tools.inside(image), "-p", "-m", tools.inside(source), "::/"])
        source.unlink()
    pack(image, frame, image.stat().st_size, tools, profile.packing)
    return {**parts, profile.seed: _part(image, frame, profile.partition(profile.seed))}


def parts_id(parts: Parts, root: Root) -> str:
    """Give the id of an image that has these partitions."""
    return content_id({"root": root.root_hash, "boot": {name: file_digest(part.frame) for name, part in parts.items()}})


def command_line(profile: Profile, root: Root) -> str:
    """The kernel's command line for a root; the initramfs scripts of the profiles read the `darkpipe.` words."""
    own = (
        "root=/dev/mapper/root",
        "rootfstype=erofs",
        "ro",
        f"darkpipe.root={root_partition_id(profile, root)}",
        f"darkpipe.hash={root.root_hash}",
        f"darkpipe.tree={root.tree_offset}",
        f"darkpipe.state={_state_mark(profile)}",
    )
    return " ".join((*own, *profile.kernel_command_line))


def _state_mark(profile: Profile) -> str:
    """The line by which the kernel tells the state partition in sysfs: MBR has no labels."""
    if profile.table is Table.GPT:
        return "PARTNAME=darkpipe-state"
    return f"PARTN={profile.layout().partitions['state']}"


Fill = Callable[[Path, Sandbox, Profile, PackageLayer, str], None]
"""Fills an empty folder with the files of a partition; the last argument is the kernel's command line."""


def _fill(profile: Profile, content: Content) -> Fill:
    if content is Content.SPARE:
        return lambda *_: None
    if profile.loader is Loader.SYSTEMD_BOOT:
        return systemd_boot.fill
    return raspberry_pi.fill_slot if content is Content.BOOT else raspberry_pi.fill_first


def _make_fat(made: Path, tree: Path, tools: Sandbox, partition: Partition, root: Root, packing: Packing) -> None:
    for path in (tree, *sorted(tree.rglob("*"))):
        os.utime(path, (BUILD_EPOCH, BUILD_EPOCH))
    assert partition.size is not None  # only the last partition has none
    image = made / f"{partition.content}.img"
    with image.open("wb") as file:
        file.truncate(partition.size)
    environment = {"SOURCE_DATE_EPOCH": str(BUILD_EPOCH)}
    inside = tools.inside(image)
    serial = content_id({"root": disk_id(root), "partition": partition.name})[:8]
    label = f"DP-{partition.name.upper()}"
    tools.run(["mkfs.vfat", "--invariant", "-F32", "-n", label, "-i", serial, inside], environment=environment)
    if names := [tools.inside(path) for path in sorted(tree.iterdir())]:
        tools.run(["mcopy", "-i", inside, "-s", "-p", "-m", "-Q", *names, "::/"], environment=environment)
    pack(image, made / f"{partition.content}.frame", partition.size, tools, packing)


def _part(image: Path, frame: Path, partition: Partition) -> Part:
    assert partition.size is not None  # only the last partition has none
    return Part(image, frame, used_size(end_of_content(image), partition.size))
