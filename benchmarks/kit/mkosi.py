"""mkosi of Debian 13, in a tools tree of its own; what it makes is defined in `benchmarks/images/`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from builder.archive import Archive
from builder.build import SOURCE
from builder.cache import Cache
from builder.packages import BUILD_EPOCH
from builder.progress import Stages
from builder.sandbox import Sandbox
from builder.tools import ToolsTree, open_tools

MKOSI = ToolsTree(
    "mkosi",
    (
        "apt",
        "cpio",
        "cryptsetup-bin",
        "debian-archive-keyring",
        "dosfstools",
        "e2fsprogs",
        "erofs-utils",
        "kmod",
        "mkosi",
        "mtools",
        "python3-pefile",
        "systemd",
        "systemd-boot-efi",
        "systemd-container",
        "systemd-repart",
        "systemd-ukify",
        "udev",
        "zstd",
    ),
)

_DEFINITIONS = SOURCE / "benchmarks/images"


def open_mkosi(cache: Cache, archive: Archive, stages: Stages) -> Sandbox:
    """Give a sandbox with mkosi; it is installed when the cache lacks it.

    Raises:
        BuildError: the archive cannot be reached, or the host refuses namespaces.
    """
    return open_tools(MKOSI, cache, archive, stages)


def prepare(
    mkosi: Sandbox, name: str, work: Path, *, packages: Sequence[str] = (), initramfs: Sequence[Path] = ()
) -> None:
    """Copy a definition into a workspace and complete it.

    Args:
        name: a folder of `benchmarks/images/`.
        work: an empty folder below the sandbox's cache.
        packages: names of more packages.
        initramfs: folders laid over `/etc/initramfs-tools` before packages are installed.
    """
    shutil.copytree(_DEFINITIONS / name, work, symlinks=True, dirs_exist_ok=True)
    # mkosi's own list has a suite of debug symbols that mirrors lack; this one is what mmdebstrap has written for the
    # tree, the archive that everything here comes from. An empty file of that name keeps mkosi from writing its own.
    sources = work / "mkosi.sandbox/etc/apt/sources.list.d"
    sources.mkdir(parents=True)
    (sources / "mkosi.sources").touch()
    shutil.copy(mkosi.tree / "etc/apt/sources.list", sources / "mkosi.list")
    if packages:
        (work / "mkosi.conf.d").mkdir()
        listed = "".join(f"    {package},\n" for package in packages)
        (work / "mkosi.conf.d/packages.conf").write_text(f"[Content]\nPackages=\n{listed}", encoding="utf-8")
    for folder in initramfs:
        shutil.copytree(folder, work / "mkosi.skeleton/etc/initramfs-tools", dirs_exist_ok=True)


def build(mkosi: Sandbox, work: Path, scratch: Path) -> None:
    """Run mkosi on a definition that `prepare` has completed; its output is in the same folder.

    Args:
        scratch: an empty folder below the sandbox's cache.

    Raises:
        ToolError: mkosi failed.
    """
    options = [f"--directory={mkosi.inside(work)}", f"--source-date-epoch={BUILD_EPOCH}"]
    mkosi.run(["mkosi", *options, "build"], scratch=scratch)


def packages_in(work: Path) -> frozenset[str]:
    """Read from mkosi's manifest which packages it has installed: `name=version`."""
    manifest = json.loads((work / "image.manifest").read_text(encoding="utf-8"))
    return frozenset(f"{package['name']}={package['version']}" for package in manifest["packages"])
