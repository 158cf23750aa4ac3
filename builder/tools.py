"""Tools trees: small Debian 13 systems that hold the build's tools, so that the host's versions do not matter."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from builder.archive import STATE_SCRIPT, SUITE, Archive, look_at
from builder.cache import Cache, Entry
from builder.digests import code_digests, content_id
from builder.errors import ToolError
from builder.progress import Advance, Stages
from builder.run import run
from builder.sandbox import Sandbox, namespace_command
from builder.workshop import Stage

_MOUNT_POINTS = ("cache", "outside", "mnt", "dev", "proc", "sys", "run", "tmp")
_BOUND_FILES = ("etc/resolv.conf", "etc/hosts")
_ARCHIVE = "archive"
_MAXIMUM_AGE = 30 * 24 * 3600
"""Seconds. Newer tools make everything anew and seldom better: their security matters little, since they read nothing
but Debian's signed packages and our own files."""

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
        "xz-utils",
        "zstd",
    ),
)

EMULATOR = ToolsTree("emulator", ("ovmf", "qemu-system-x86", "qemu-utils", "swtpm"))

EMULATOR_ARM64 = ToolsTree("emulator for arm64", ("ipxe-qemu", "qemu-system-arm", "qemu-utils"))


def open_tools(tree: ToolsTree, cache: Cache, archive: Archive, stages: Stages, *, refresh: bool = False) -> Sandbox:
    """Give a sandbox of a tools tree; the tree is installed from Debian's archive when the cache lacks it.

    It holds for 30 days; then, or on demand, it is installed anew if the archive has changed.

    Raises:
        BuildError: the archive cannot be reached, or the host refuses namespaces.
    """
    inputs = _inputs(tree, archive)
    found = newest_tools(tree, cache, archive)
    if found and not (refresh or time.time() - found.made > _MAXIMUM_AGE):
        return Sandbox(found.folder, cache.root)
    try:
        if found:
            with stages.stage(f"Look for newer {tree.name}"):
                state = look_at(cache, archive, host_architecture(), Sandbox(found.folder, cache.root))
            if state.digest == found.inputs[_ARCHIVE]:
                return Sandbox(found.folder, cache.root)
        with stages.stage(f"Install {tree.name}", "they are kept for later builds") as advance:
            # What was learned from the archive makes the entry's id; the lock is that of all such trees.
            entry = cache.produce(Stage.TOOLS, tree.name, inputs, lambda made: _install(tree, made, archive, advance))
    except ToolError as error:
        if not found or refresh:
            raise
        stages.say(f"The {tree.name} of the last time are used, since there are no newer ones:\n{error}")
        entry = found.folder
    return Sandbox(entry, cache.root)


def newest_tools(tree: ToolsTree, cache: Cache, archive: Archive) -> Entry | None:
    """Give the newest entry of a tools tree, whatever the archive's state was; it is then in use."""
    wanted = content_id(_inputs(tree, archive))
    known = [entry for entry in cache.entries() if entry.kind == Stage.TOOLS]
    same = [e for e in known if content_id({k: v for k, v in e.inputs.items() if k != _ARCHIVE}) == wanted]
    for entry in sorted(same, key=lambda entry: entry.made, reverse=True):
        if cache.find(entry.kind, entry.identifier):
            return entry
    return None


def _inputs(tree: ToolsTree, archive: Archive) -> dict[str, object]:
    return {
        "suite": SUITE,
        "architecture": host_architecture(),
        "mirrors": list(archive.mirrors),
        "packages": _packages(tree),
        "code": code_digests("tools.py"),
    }


def host_architecture() -> str:
    """Debian's name of this machine's architecture."""
    names = {"x86_64": "amd64", "aarch64": "arm64"}
    return names.get(platform.machine(), platform.machine())


def _packages(tree: ToolsTree) -> list[str]:
    return sorted({*_ALWAYS, *tree.packages})


def _install(tree: ToolsTree, made: Path, archive: Archive, advance: Advance) -> Mapping[str, object]:
    tar = made.parent / "tools.tar"
    state = "archive-state"
    root = os.geteuid() == 0
    options = (
        "--variant=apt",
        f"--mode={'root' if root else 'unshare'}",
        "--format=tar",
        f"--include={','.join(_packages(tree))}",
        # Into the tree, since nothing else can be written by whoever runs hooks in the mode for ordinary users.
        f'--customize-hook=({STATE_SCRIPT}) >"$1/{state}"',
        "--verbose",
    )
    # With a process namespace of its own all of it ends with us; as an ordinary user mmdebstrap makes one by itself.
    prefix = (*namespace_command(), "--") if root else ()
    command = [*prefix, "mmdebstrap", *options, *archive.path_exclusions, SUITE, str(tar), *archive.mirrors]
    run(command, on_line=archive.counter(advance))
    # All files belong to whoever builds: they are mapped to root inside the sandbox, and removing them is easy.
    run(["tar", "--extract", "--file", str(tar), "--directory", str(made), "--no-same-owner", "--exclude=./dev/*"])
    for name in _MOUNT_POINTS:
        (made / name).mkdir(exist_ok=True)
    for name in _BOUND_FILES:
        (made / name).unlink(missing_ok=True)
        (made / name).touch()
    return {_ARCHIVE: (made / state).read_text().strip()}
