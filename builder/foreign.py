"""Installing packages for another processor than this computer's.

Their programs are run by qemu-user, and as far as possible not at all: a program whose work does not depend on the
processor (a shell, perl, tar) is replaced by this computer's own build of the same version while packages are
installed. Nothing of that stays in the result, which equals a plainly emulated one (`./dev test foreign`).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from builder.errors import BuildError, ToolError
from builder.run import run
from builder.sandbox import Sandbox
from builder.tools import BUILD_TOOLS, ToolsTree, host_architecture

VARIABLE = "DARKPIPE_FOREIGN"
"""Environment variable: `emulated` does without this computer's own programs, for a comparison."""

CODE = ("foreign.py", "foreign.sh", "foreign-handler.c")
"""The builder's files that decide how foreign programs are run."""

_ELF = b"\x7fELF"
_FOLDERS = ("usr/bin", "usr/sbin")
_EMULATOR = "qemu-aarch64"
_HOST_HANDLER = Path("/proc/sys/fs/binfmt_misc/qemu-aarch64")
_PAIRS = {("amd64", "arm64")}
"""Computer and image that foreign-handler.c is written for."""

_COREUTILS = (
    "basename", "cat", "chmod", "chown", "comm", "cp", "cut", "date", "dirname", "env", "expr", "false", "head",
    "id", "install", "ln", "ls", "md5sum", "mkdir", "mktemp", "mv", "printf", "readlink", "rm", "rmdir",
    "sha256sum", "sleep", "sort", "stat", "tail", "tee", "test", "touch", "tr", "true", "uniq", "wc",
)  # fmt: skip

# What must not be here: dpkg, uname and arch, which tell what processor they run on; ldconfig and python3, whose
# results depend on it; and whatever has libraries in folders of its own.
_PROGRAMS = {
    "bash": ("bash",),
    "bzip2": ("bzip2",),
    "coreutils": _COREUTILS,
    "cpio": ("cpio",),
    "dash": ("dash",),
    "diffutils": ("cmp", "diff"),
    "dpkg": ("dpkg-deb", "dpkg-split", "update-alternatives"),
    "findutils": ("find", "xargs"),
    "grep": ("grep",),
    "gzip": ("gzip",),
    "kmod": ("kmod",),
    "libc-bin": ("getent",),
    "mawk": ("mawk",),
    "perl-base": ("perl",),
    "sed": ("sed",),
    "tar": ("tar",),
    "xz-utils": ("xz",),
    "zstd": ("zstd",),
}
"""Programs of this computer's architecture that stand in for the foreign ones, by their Debian packages."""

FOREIGN_TOOLS = ToolsTree(
    "tools for arm64",
    # gcc and libc6-dev make the handler: no binary lies in the repository.
    tuple(
        sorted({*BUILD_TOOLS.packages, "bzip2", "cpio", "gcc", "kmod", "libc6-dev", "perl", "qemu-user", "xz-utils"})
    ),
)


class Way(StrEnum):
    """How foreign programs can be run here."""

    NATIVE_TOOLS = "native-tools"
    EMULATED = "emulated"
    HOST = "host"


def way() -> Way:
    """Tell how foreign programs would be run on this computer.

    Raises:
        BuildError: they cannot; or `$DARKPIPE_FOREIGN` asks for what is not there.
    """
    wanted = os.environ.get(VARIABLE, Way.NATIVE_TOOLS)
    if wanted not in (Way.NATIVE_TOOLS, Way.EMULATED):
        raise BuildError(f"{VARIABLE} is {wanted!r}", f"expected {Way.NATIVE_TOOLS} or {Way.EMULATED}")
    if not (why := private_handlers_fail()):
        return Way(wanted)
    if host_handler_works():
        return Way.HOST
    raise BuildError(
        "programs for arm64 cannot be run here: there can be no private binfmt_misc, which needs Linux 6.7 and user "
        f"namespaces ({why}), and the computer has no handler for them",
        "install qemu-user-binfmt (on Debian 12: qemu-user-static), or build on a newer kernel or an arm64 computer; "
        "./darkpipe doctor says more",
    )


def private_handlers_fail() -> str:
    """Say why a user namespace of ours cannot have binfmt_misc handlers of its own; empty when it can."""
    try:
        run(["unshare", "--user", "--map-root-user", "--mount", "--", "mount", "-t", "binfmt_misc", "none", "/mnt"])
    except ToolError as error:
        return error.output or f"exit status {error.status}"
    except BuildError as error:
        return str(error)
    return ""


def host_handler_works() -> bool:
    """Tell whether this computer has a handler for arm64 programs that also works in other roots (flag F)."""
    try:
        lines = _HOST_HANDLER.read_text().splitlines()
    except OSError:
        return False
    return lines[:1] == ["enabled"] and any(line.startswith("flags:") and "F" in line for line in lines)


def is_foreign(architecture: str) -> bool:
    """Tell whether an architecture is another one than this computer's.

    Raises:
        BuildError: it is one that cannot be built for here.
    """
    here = host_architecture()
    if architecture != here and (here, architecture) not in _PAIRS:
        message = f"images for {architecture} cannot be built on {here}"
        raise BuildError(message, f"build it on a computer with {architecture}, or on one with amd64")
    return architecture != here


@dataclass(frozen=True)
class Foreign:
    """What a mmdebstrap for another architecture is called with.

    Args:
        prefix: words before `mmdebstrap` on the command line, inside the tools tree.
        options: further options of mmdebstrap, before all hooks.
        after_packages: a hook for when the packages are installed, before anything is made from them.
        last_hook: what must be the last of its hooks.
    """

    prefix: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    after_packages: tuple[str, ...] = ()
    last_hook: tuple[str, ...] = ()


def prepare(tools: Sandbox, work: Path) -> Foreign:
    """Make ready what runs foreign programs.

    Args:
        tools: the tree of FOREIGN_TOOLS.
        work: an empty folder below the cache that lives as long as mmdebstrap.

    Raises:
        BuildError: foreign programs cannot be run here.
    """
    chosen = way()
    if chosen is Way.HOST:
        return Foreign()
    here = Path(__file__).parent
    script, handler, programs = work / "foreign.sh", work / "handler", work / "programs"
    shutil.copy(here / "foreign.sh", script)
    shutil.copy(here / "foreign-handler.c", work)
    source = tools.inside(work / "foreign-handler.c")
    tools.run(["gcc", "-O2", "-static", "-o", tools.inside(handler), source])
    programs.mkdir()
    shutil.copy(tools.tree / "usr/bin" / _EMULATOR, programs)
    if chosen is Way.NATIVE_TOOLS:
        for package, names in _PROGRAMS.items():
            _collect(tools, package, names, work / "native" / package)
    inside = tools.inside
    return Foreign(
        prefix=("sh", inside(script), "run", inside(handler)),
        options=(
            "--skip=check/qemu",
            f'--extract-hook=sh {inside(script)} bind "$1" {inside(programs)} {inside(work / "native")}',
        ),
        after_packages=(f'--customize-hook=sh {inside(script)} hide "$1"',),
        last_hook=(f'--customize-hook=sh {inside(script)} unbind "$1"',),
    )


def _collect(tools: Sandbox, package: str, names: Sequence[str], target: Path) -> None:
    """Copy a package's programs, and note its version: another version must not stand in."""
    for folder in _FOLDERS:
        for name in names:
            program = tools.tree / folder / name
            if program.is_file() and not program.is_symlink() and program.read_bytes()[:4] == _ELF:
                (target / "root" / folder).mkdir(parents=True, exist_ok=True)
                shutil.copy(program, target / "root" / folder)
    (target / "version").write_text(tools.versions[package])
