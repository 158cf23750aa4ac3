"""Running tools inside a tools tree, as root or as an ordinary user, without Docker and without loop devices.

An ordinary user becomes root of a user namespace (user_namespaces(7)) whose other ids are the user's subordinate
ids (subuid(5)); root enters the tree directly. Either way the tree becomes the root of a private mount namespace.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO

from builder.errors import BuildError, ToolError
from builder.run import run

_SCRIPT = Path(__file__).with_name("sandbox.sh")
_MEMORY_FOR_TMPFS = 8 * 2**30
_TMPFS_SIZE = "6g"


NAMESPACES = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--propagation", "private")
"""The unshare(1) command line by which root gets private namespaces."""


def namespace_command() -> tuple[str, ...]:
    """The unshare(1) command line that makes us root of private namespaces."""
    if os.geteuid() == 0:
        return NAMESPACES
    return (*NAMESPACES, "--user", "--map-root-user", "--map-auto")


def remove_tree(folder: Path) -> None:
    """Remove a folder, also when it holds files of our subordinate ids, which only the namespace's root may remove."""
    try:
        shutil.rmtree(folder)
    except PermissionError:
        run([*namespace_command(), "--", "rm", "-rf", "--one-file-system", str(folder)])


@dataclass(frozen=True)
class Sandbox:
    """A tools tree together with the cache folder that its tools may write.

    Args:
        tree: the unpacked tools tree.
        cache: the folder that is `/cache` inside.
    """

    tree: Path
    cache: Path

    @cached_property
    def versions(self) -> dict[str, str]:
        """The Debian packages of the tree: name to version."""
        text = (self.tree / "var/lib/dpkg/status").read_text(encoding="utf-8")
        return dict(re.findall(r"^Package: (\S+)\n(?:.+\n)*?Version: (\S+)$", text, re.MULTILINE))

    def inside(self, path: Path) -> str:
        """Translate a path below the cache folder to what the tools see.

        Raises:
            ValueError: the path lies elsewhere.
        """
        return str(Path("/cache") / path.relative_to(self.cache))

    def command(self, argv: Sequence[str], memory: str = "1g") -> tuple[str, ...]:
        """Give the host's command line for a command of the tree."""
        entry = ("sh", str(_SCRIPT), str(self.tree), str(self.cache), memory)
        return (*namespace_command(), "--", *entry, *argv)

    def run(
        self,
        argv: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        stdin: IO[bytes] | None = None,
        stdout: IO[bytes] | None = None,
        on_line: Callable[[str], None] | None = None,
        scratch: Path | None = None,
    ) -> str:
        """Run a command of the tree; see `builder.run.run`.

        Args:
            scratch: an empty folder below the cache for a command that needs gigabytes of temporary space; memory
                is used instead where there is plenty.
        """
        memory = "1g"
        variables = dict(environment or {})
        if scratch is not None:
            memory = _TMPFS_SIZE if available_memory() >= _MEMORY_FOR_TMPFS else "0"
            variables["DARKPIPE_SCRATCH"] = str(scratch)
        command = self.command(argv, memory)
        return run(command, environment=variables, stdin=stdin, stdout=stdout, on_line=on_line)


def check_namespaces() -> None:
    """Try the namespaces that every build needs.

    Raises:
        BuildError: the kernel or the host's settings refuse them; the hint names the likely cause.
    """
    try:
        run([*namespace_command(), "--", "true"])
    except ToolError as error:
        if os.geteuid() == 0:
            hint = "in a container, start it with --cap-add SYS_ADMIN and without seccomp and AppArmor confinement"
        else:
            hint = (
                "an ordinary user needs subordinate ids (sudo usermod --add-subuids 100000-165535 --add-subgids "
                "100000-165535 $USER) and user namespaces (sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0 "
                "on Ubuntu); or run the build as root"
            )
        raise BuildError(f"private namespaces cannot be made here.\n{error}", hint) from error


def available_memory() -> int:
    """Bytes of memory that programs can still get (proc_meminfo(5))."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0
