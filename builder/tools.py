"""Tools trees: small Debian 13 systems that hold the build's tools, so that the host's versions do not matter."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path

from builder.archive import SUITE, Archive
from builder.cache import Cache, content_id
from builder.progress import Advance, Stages
from builder.run import run
from builder.sandbox import Sandbox

_MOUNT_POINTS = ("cache", "outside", "mnt", "dev", "proc", "sys", "run", "tmp")
_BOUND_FILES = ("etc/resolv.conf", "etc/hosts")
_LAYOUT = 2
"""Raise it when the way in which a tree is made changes."""


_ALWAYS = ("mount",)
"""What entering a tree needs (sandbox.sh)."""


@dataclass(frozen=True)
class ToolsTree:
    """A named set of Debian packages that are used together.

    Args:
        name: a noun for messages.
        packages: what is installed, beside the essential packages and apt.
    """

    name: str
    packages: tuple[str, ...]


BUILD_TOOLS = ToolsTree(
    "build tools",
    (
        "btrfs-progs",
        "cryptsetup-bin",
        "debian-archive-keyring",
        "dosfstools",
        "e2fsprogs",
        "erofs-utils",
        "fdisk",
        "mmdebstrap",
        "mtools",
        "python3",
        "systemd-ukify",
        "zstd",
    ),
)

EMULATOR = ToolsTree("emulator", ("ovmf", "qemu-system-x86", "qemu-utils"))


def open_tools(tree: ToolsTree, cache: Cache, archive: Archive, stages: Stages) -> Sandbox:
    """Give a sandbox of a tools tree; the tree is installed from Debian's archive when the cache lacks it.

    Raises:
        BuildError: the archive cannot be reached, or the host refuses namespaces.
    """
    entry = find_tools(tree, cache)
    if entry is None:
        identifier = _identifier(tree)
        with stages.stage(f"Install {tree.name}", "once; they are kept for later builds") as advance:
            entry = cache.produce("tools", identifier, lambda made: _install(tree, made, archive, advance))
    return Sandbox(entry, cache.root)


def find_tools(tree: ToolsTree, cache: Cache) -> Path | None:
    """Give the folder of a tools tree that is installed, or None."""
    return cache.find("tools", _identifier(tree))


def _identifier(tree: ToolsTree) -> str:
    architecture = host_architecture()
    return content_id({"layout": _LAYOUT, "suite": SUITE, "architecture": architecture, "packages": _packages(tree)})


def host_architecture() -> str:
    """Debian's name of this machine's architecture."""
    names = {"x86_64": "amd64", "aarch64": "arm64"}
    return names.get(platform.machine(), platform.machine())


def _packages(tree: ToolsTree) -> list[str]:
    return sorted({*_ALWAYS, *tree.packages})


def _install(tree: ToolsTree, made: Path, archive: Archive, advance: Advance) -> None:
    tar = made.parent / "tools.tar"
    mode = "root" if os.geteuid() == 0 else "unshare"
    options = ("--variant=apt", f"--mode={mode}", "--format=tar", f"--include={','.join(_packages(tree))}", "--verbose")
    counter = archive.counter(advance)
    run(["mmdebstrap", *options, *archive.path_exclusions, SUITE, str(tar), *archive.mirrors], on_line=counter)
    # All files belong to whoever builds: they are mapped to root inside the sandbox, and removing them is easy.
    run(["tar", "--extract", "--file", str(tar), "--directory", str(made), "--no-same-owner", "--exclude=./dev/*"])
    for name in _MOUNT_POINTS:
        (made / name).mkdir(exist_ok=True)
    for name in _BOUND_FILES:
        (made / name).unlink(missing_ok=True)
        (made / name).touch()
