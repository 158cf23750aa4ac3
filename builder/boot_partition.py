"""The boot partition: boot loader, unified kernel image, and the seed of one site."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from builder.frames import compress
from builder.packages import BUILD_EPOCH, PackageLayer
from builder.profile import Content, Partition, Profile
from builder.root import Root
from builder.sandbox import Sandbox
from builder.version import VERSION
from builder.workshop import Stage, Workshop
from model.document import SEED_NAME

_LOADER_CONF = """\
# One entry, no menu: somebody at the keyboard cannot change how the system starts.
timeout 0
editor no
auto-entries no
auto-firmware no
"""


@dataclass(frozen=True)
class BootPartition:
    """A finished boot partition.

    Args:
        image: the FAT file system, sparse, in the partition's size.
        frame: the same as one zstd frame.
    """

    image: Path
    frame: Path


def boot_partition(shop: Workshop, profile: Profile, packages: PackageLayer, root: Root) -> BootPartition:
    """Give the generic boot partition, the same for everybody."""
    inputs = {
        "version": VERSION,
        "epoch": BUILD_EPOCH,
        "packages": packages.digest,
        "root": root.root_hash,
        "command line": command_line(profile, root),
        "loader": _LOADER_CONF,
        "size": _size(profile),
    }
    entry = shop.stage(
        Stage.BOOT,
        inputs,
        ("boot_partition.py", "frames.py"),
        lambda made, _: _build(made, shop.tools, profile, packages, root),
    )
    return BootPartition(entry / "boot.img", entry / "boot.zst")


def seeded(generic: BootPartition, seed: str, work: Path, tools: Sandbox) -> BootPartition:
    """Copy the generic boot partition into a workspace and put a seed into it.

    Args:
        seed: a canonical `site.yaml`; it may hold password hashes.
    """
    image = work / "boot.img"
    tools.run(["cp", "--sparse=always", tools.inside(generic.image), tools.inside(image)])
    source = work / SEED_NAME
    source.touch(mode=0o600)
    source.write_text(seed, encoding="utf-8")
    os.utime(source, (BUILD_EPOCH, BUILD_EPOCH))
    tools.run(["mcopy", "-i", tools.inside(image), "-p", "-m", tools.inside(source), "::/"])
    source.unlink()
    frame = work / "boot.zst"
    compress(image, frame, image.stat().st_size, tools)
    return BootPartition(image, frame)


def command_line(profile: Profile, root: Root) -> str:
    """The kernel's command line for a root; the initramfs script of the profile reads the `darkpipe.` words."""
    own = (
        "root=/dev/mapper/root",
        "rootfstype=erofs",
        "ro",
        f"darkpipe.root={root.partition_uuid}",
        f"darkpipe.hash={root.root_hash}",
        f"darkpipe.tree={root.tree_offset}",
    )
    return " ".join((*own, *profile.kernel_command_line))


def _size(profile: Profile) -> int:
    partition: Partition = profile.partition(Content.BOOT)
    assert partition.size is not None  # only the last partition has none
    return partition.size


def _build(made: Path, tools: Sandbox, profile: Profile, packages: PackageLayer, root: Root) -> None:
    tree = made.parent / "esp"
    for folder in ("EFI/BOOT", "EFI/Linux", "loader"):
        (tree / folder).mkdir(parents=True)
    shutil.copy(packages.boot_files / "systemd-bootx64.efi", tree / "EFI/BOOT/BOOTX64.EFI")
    (tree / "loader/loader.conf").write_text(_LOADER_CONF)
    (made.parent / "os-release").write_text(_os_release())
    kernel = tree / f"EFI/Linux/darkpipe-{VERSION}.efi"
    _unified_kernel_image(kernel, tools, packages, command_line(profile, root), made.parent / "os-release")
    for path in (tree, *sorted(tree.rglob("*"))):
        os.utime(path, (BUILD_EPOCH, BUILD_EPOCH))
    image = made / "boot.img"
    with image.open("wb") as file:
        file.truncate(_size(profile))
    label = profile.partition(Content.BOOT).name.upper()
    serial = root.root_hash[:8]
    environment = {"SOURCE_DATE_EPOCH": str(BUILD_EPOCH)}
    inside = tools.inside(image)
    tools.run(["mkfs.vfat", "--invariant", "-F32", "-n", f"DP-{label}", "-i", serial, inside], environment=environment)
    names = [tools.inside(path) for path in sorted(tree.iterdir())]
    tools.run(["mcopy", "-i", inside, "-s", "-p", "-m", "-Q", *names, "::/"], environment=environment)
    compress(image, made / "boot.zst", _size(profile), tools)


def _unified_kernel_image(
    target: Path, tools: Sandbox, packages: PackageLayer, kernel_command_line: str, os_release: Path
) -> None:
    tools.run(
        [
            "ukify",
            "build",
            f"--linux={tools.inside(packages.kernel)}",
            f"--initrd={tools.inside(packages.initrd)}",
            f"--cmdline={kernel_command_line}",
            f"--os-release=@{tools.inside(os_release)}",
            f"--uname={packages.kernel_version}",
            f"--stub={tools.inside(packages.boot_files / 'linuxx64.efi.stub')}",
            f"--output={tools.inside(target)}",
        ],
        environment={"SOURCE_DATE_EPOCH": str(BUILD_EPOCH)},
    )


def _os_release() -> str:
    return f'ID=darkpipe\nNAME=DarkPipe\nPRETTY_NAME="DarkPipe {VERSION}"\nVERSION_ID={VERSION}\n'
