"""A bare mmdebstrap: the least that a builder of Debian images has to do."""

from __future__ import annotations

import shlex
import tarfile
from collections.abc import Sequence
from pathlib import Path

from builder.archive import SUITE, Archive
from builder.errors import BuildError
from builder.lock import installed_packages
from builder.sandbox import Sandbox

_STATUS = "./var/lib/dpkg/status"


def command(archive: Archive, packages: Sequence[str], target: str) -> list[str]:
    """Give the command line that installs packages into a tar, without what our images leave out."""
    options = ["--variant=minbase", "--mode=root", f"--include={','.join(packages)}", *archive.path_exclusions]
    return ["mmdebstrap", *options, SUITE, target, *archive.mirrors]


def install(tools: Sandbox, archive: Archive, packages: Sequence[str], work: Path, *, initramfs: bool) -> Path:
    """Install packages into a tar.

    Args:
        work: an empty folder below the sandbox's cache.
        initramfs: whether the kernel's package makes an initramfs, as it does unless it is told not to.

    Returns:
        The tar.

    Raises:
        ToolError: mmdebstrap failed.
    """
    target = work / "root.tar"
    scratch = work / "scratch"
    scratch.mkdir()
    environment = {"DEBIAN_FRONTEND": "noninteractive", **({} if initramfs else {"INITRD": "No"})}
    tools.run(command(archive, packages, tools.inside(target)), environment=environment, scratch=scratch)
    return target


def packages_in(tar: Path) -> frozenset[str]:
    """Read which packages are installed in a tar: `name=version`.

    Raises:
        BuildError: it is no Debian system.
    """
    with tarfile.open(tar, "r:") as archive:
        for member in archive:
            if member.name == _STATUS and (file := archive.extractfile(member)):
                return frozenset(f"{one.name}={one.version}" for one in installed_packages(file.read().decode()))
    raise BuildError(f"{tar} has no {_STATUS}", "it must be the tar of a Debian system")


def shown(archive: Archive, packages: Sequence[str]) -> str:
    """Write the command line for a person."""
    return shlex.join(command(archive, packages, "root.tar"))
