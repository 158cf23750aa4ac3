"""Debian's archive as mmdebstrap uses it: suite, mirrors, and the progress that it prints."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass

from builder.progress import Advance

SUITE = "trixie"
"""Debian 13, on the device as well as in the tools trees."""


@dataclass(frozen=True)
class Archive:
    """Where packages come from.

    Args:
        mirrors: mmdebstrap's MIRROR arguments; none means its own default, which has the updates and security suites.
    """

    mirrors: tuple[str, ...] = ()

    @classmethod
    def from_environment(cls) -> Archive:
        """Read `$DARKPIPE_MIRROR`: apt source lines or a URL, several separated by newlines (mmdebstrap(1))."""
        return cls(tuple(line for line in os.environ.get("DARKPIPE_MIRROR", "").splitlines() if line.strip()))

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
