"""The system that a relay is: its folders, and the programs of Debian that change it."""

from __future__ import annotations

import pwd
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

CONFIG = Path("var/lib/darkpipe/config")
SETTINGS = CONFIG / "settings.json"
RECORD = Path("var/lib/darkpipe/bundle.json")
"""What was installed; see relay/switch.py."""

QUEUE_USER = "darkpipe-queue"
_SECONDS = 600


class Failure(Exception):
    """Something does not work; the text says what."""


@dataclass(frozen=True)
class System:
    """A relay.

    Args:
        root: `/`, but for tests.
    """

    root: Path = Path("/")

    @property
    def base(self) -> Path:
        """The folder of all bundles."""
        return self.root / "opt/darkpipe"

    def run(self, *argv: str) -> str:
        """Run a program; gives what it printed.

        Raises:
            Failure: it has ended with another status than 0.
        """
        status, output = self.try_run(*argv)
        if status:
            last = output.strip().splitlines() or ["(it said nothing)"]
            raise Failure(f"{argv[0]} {' '.join(argv[1:3])}: {last[-1]}")
        return output

    def try_run(self, *argv: str) -> tuple[int, str]:
        """Run a program; gives its exit status and what it printed."""
        try:
            done = subprocess.run(
                argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=_SECONDS
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return 1, f"{argv[0]}: {error}"
        return done.returncode, done.stdout

    def user(self, name: str) -> int | None:
        """Give the number of a user, or None."""
        try:
            return pwd.getpwnam(name).pw_uid
        except KeyError:
            return None

    def missing_packages(self, wanted: Sequence[str]) -> list[str]:
        """Give those of some Debian packages that are not installed."""
        _, text = self.try_run("dpkg-query", "--show", "--showformat=${Package} ${db:Status-Status}\\n", *wanted)
        there = {line.split()[0] for line in text.splitlines() if line.endswith(" installed")}
        return [name for name in wanted if name not in there]
