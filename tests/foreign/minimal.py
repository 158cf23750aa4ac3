"""A small root file system for arm64, for comparing the ways in which it is installed.

python -m tests.foreign.minimal TREE WAY    prints where the tar is; TREE is a tools tree
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from builder.archive import SUITE, Archive
from builder.cache import Cache
from builder.foreign import Way, prepare
from builder.packages import BUILD_EPOCH
from builder.sandbox import Sandbox, remove_tree
from tests.foreign.command import running

# Shell, perl, alternatives, ucf, debconf and users: what packages do when they are installed.
_PACKAGES = ("dbus", "kmod", "perl", "systemd-sysv", "ucf", "udev")


def install_minimal(tree: Path, way: Way, target: Path) -> Path:
    """Install it from Debian's archive.

    Args:
        tree: the unpacked tools of FOREIGN_TOOLS.
        target: a folder for the tar.
    """
    cache = Cache(Cache.default().root, remove_tree)
    tools, archive = Sandbox(tree, cache.root), Archive.from_environment()
    with cache.workspace() as work, running(way):
        for name in ("foreign", "scratch"):
            (work / name).mkdir()
        across = prepare(tools, work / "foreign")
        made = work / "root.tar"
        clean = 'rm -rf "$1"/var/log/* "$1"/var/lib/apt/lists "$1"/etc/machine-id "$1"/var/cache/ldconfig/aux-cache'
        tools.run(
            [
                *(*across.prefix, "mmdebstrap", *across.options, *archive.options, *archive.path_exclusions),
                *("--variant=minbase", "--mode=root", "--arch=arm64", f"--include={','.join(_PACKAGES)}"),
                *(*across.after_packages, f"--customize-hook={clean}", *across.last_hook),
                *(SUITE, tools.inside(made), *archive.mirrors),
            ],
            environment={"SOURCE_DATE_EPOCH": str(BUILD_EPOCH), "DEBIAN_FRONTEND": "noninteractive"},
            scratch=work / "scratch",
        )
        target.mkdir(parents=True, exist_ok=True)
        return Path(shutil.move(made, target / "root.tar"))


if __name__ == "__main__":
    print(install_minimal(Path(sys.argv[1]), Way(sys.argv[2]), Path("out").absolute()))
