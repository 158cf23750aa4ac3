"""Debian's archive as mmdebstrap uses it: suite, mirrors, its state, and the progress that mmdebstrap prints."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from builder.cache import Cache
from builder.digests import content_id
from builder.progress import Advance
from builder.sandbox import Sandbox

SUITE = "trixie"
"""Debian 13, on the device as well as in the tools trees."""

FRESH = 24 * 3600
"""Seconds for which a look at the archive holds; Debian publishes a few times a day."""

MAIN = "main"
"""The archive area that needs no mention (Debian Policy §2.2)."""

SOURCES_SCRIPT = """\
for file in "$1/etc/apt/sources.list" "$1"/etc/apt/sources.list.d/*.list; do
[ ! -e "$file" ] || sed -n 's/^\\(deb .*\\) {suite} .*/\\1 {more} {areas}/p' "$file"
done >"$1/etc/apt/sources.list.d/zz-{more}.list"
"""
"""Shell: adds a suite to the sources of a root file system ($1), from the same mirrors as the main one."""

INDICES_ONLY = ("--variant=custom", "--mode=root", "--format=null", "--skip=check/qemu")
"""Options of mmdebstrap that let it fetch an archive's indices, and install nothing: no program of another architecture
is run."""

STATE_SCRIPT = 'cd "$1/var/lib/apt/lists" && sha256sum ./*_Packages* | cut -d" " -f1 | sort | sha256sum | cut -d" " -f1'
"""Shell: prints the state of an archive: a hash over the package indices in a root file system ($1)."""


@dataclass(frozen=True)
class Archive:
    """Where packages come from.

    Args:
        mirrors: mmdebstrap's MIRROR arguments; none means its own default, which has the updates and security suites.
        suites: further suites, such as `trixie-backports`, from the same mirrors.
        areas: archive areas (Debian Policy §2.2) that packages are taken from, for mirrors that are no whole lines.
    """

    mirrors: tuple[str, ...] = ()
    suites: tuple[str, ...] = ()
    areas: tuple[str, ...] = (MAIN,)

    @classmethod
    def from_environment(cls) -> Archive:
        """Read `$DARKPIPE_MIRROR`: apt source lines or a URL, several separated by newlines (mmdebstrap(1))."""
        return cls(tuple(line for line in os.environ.get("DARKPIPE_MIRROR", "").splitlines() if line.strip()))

    def widened(self, suites: Sequence[str], areas: Sequence[str]) -> Archive:
        """Give the same archive with further suites, and other areas."""
        return replace(self, suites=tuple(suites), areas=tuple(areas))

    @property
    def options(self) -> tuple[str, ...]:
        """Options of mmdebstrap by which it uses all suites and areas; they come before the suite's name."""
        names = " ".join(self.areas)
        scripts = [SOURCES_SCRIPT.format(suite=SUITE, more=more, areas=names) for more in self.suites]
        return (f"--components={','.join(self.areas)}", *(f"--setup-hook={script}" for script in scripts))

    @property
    def path_exclusions(self) -> tuple[str, ...]:
        """Options of mmdebstrap that leave out what only a person at a shell would read; copyrights stay."""
        excluded = ("/usr/share/man/*", "/usr/share/info/*", "/usr/share/locale/*", "/usr/share/doc/*")
        options = [f"--dpkgopt=path-exclude={pattern}" for pattern in excluded]
        return (*options, "--dpkgopt=path-include=/usr/share/doc/*/copyright")

    def counter(self, advance: Advance) -> Callable[[str], None]:
        """Make a function that turns mmdebstrap's lines (with --verbose) into progress.

        Downloads cannot be foreseen; unpacking and setting up are one step each for every package.
        """
        total = 0
        done = 0

        def count(line: str) -> None:
            nonlocal total, done
            if match := re.search(r"(\d+) newly installed", line):
                total = max(total, int(match.group(1)))
            elif line.startswith(("Unpacking ", "Setting up ")):
                done += 1
                advance(min(1.0, done / (2 * total)) if total else 0.0, line)

        return count


@dataclass(frozen=True)
class State:
    """What a look at an archive has shown.

    Args:
        digest: the same for the same package indices.
        seen: when it was, in seconds since 1970.
    """

    digest: str
    seen: float

    @property
    def fresh(self) -> bool:
        """Whether it is recent enough to build on."""
        return time.time() - self.seen < FRESH


def last_state(cache: Cache, archive: Archive, architecture: str) -> State | None:
    """Give what the last look at an archive has shown, however long ago that was."""
    try:
        return State(**json.loads(_path(cache, archive, architecture).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def remember_state(cache: Cache, archive: Archive, architecture: str, digest: str) -> State:
    """Keep a state that was seen just now."""
    state = State(digest, time.time())
    path = _path(cache, archive, architecture)
    path.parent.mkdir(parents=True, exist_ok=True)
    with cache.workspace() as work:
        new = work / "state"
        new.write_text(json.dumps(vars(state)) + "\n", encoding="utf-8")
        new.replace(path)
    return state


def look_at(cache: Cache, archive: Archive, architecture: str, tools: Sandbox) -> State:
    """Fetch the package indices, a matter of seconds.

    Raises:
        ToolError: the archive cannot be reached.
    """
    with cache.workspace() as work:
        options = [*INDICES_ONLY, f"--arch={architecture}", "--quiet"]
        # What the hook prints on standard output would get into the (empty) output of mmdebstrap.
        target = tools.inside(work / "state")
        hook = f"--customize-hook=({STATE_SCRIPT}) >{target}"
        tools.run(["mmdebstrap", *options, *archive.options, hook, SUITE, "-", *archive.mirrors])
        digest = (work / "state").read_text().strip()
    return remember_state(cache, archive, architecture, digest)


def _path(cache: Cache, archive: Archive, architecture: str) -> Path:
    inputs = {
        "suite": SUITE,
        "mirrors": list(archive.mirrors),
        "suites": list(archive.suites),
        "areas": list(archive.areas),
        "architecture": architecture,
    }
    return cache.root / "archive" / f"{content_id(inputs)[:16]}.json"
