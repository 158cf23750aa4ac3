"""Our own builder as its user calls it, in a copy of the checkout that may be changed, with a cache of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from builder.build import SOURCE
from builder.errors import BuildError, ToolError
from builder.packages import LOCK_NAME
from builder.packing import find_image
from builder.sandbox import remove_tree
from builder.workshop import Stage


class Checkout:
    """A copy of the checkout.

    Args:
        folder: an empty folder for the copy, its cache and what it builds.
    """

    def __init__(self, folder: Path) -> None:
        self._source = folder / "checkout"
        self._cache = folder / "cache"
        self._output = folder / "out"
        self._site = folder / "site.yaml"
        for name in _files():
            target = self._source / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(SOURCE / name, target, follow_symlinks=False)
        self._cache.mkdir()
        # What is installed at the first call of all, Python's libraries, is not part of any build.
        self._darkpipe("--help")

    def build(self, site: str, profile: str = "x64") -> Path:
        """Run `./darkpipe build`; gives the result's folder.

        Args:
            site: the text of site.yaml.
            profile: the platform.

        Raises:
            ToolError: it failed.
        """
        self._site.write_text(site, encoding="utf-8")
        arguments = ("build", str(self._site), "--profile", profile, "--output", str(self._output))
        return Path(self._darkpipe(*arguments).splitlines()[-1])

    def forget(self) -> None:
        """Empty the cache of all but the build tools."""
        for folder in self._cache.iterdir():
            if folder.name != Stage.TOOLS:
                remove_tree(folder)

    def change_code(self) -> None:
        """Change a file that runs on the device, each time to something new."""
        changed = self._source / "home/__init__.py"
        with changed.open("a", encoding="utf-8") as file:
            file.write("# changed\n")

    def _darkpipe(self, *arguments: str) -> str:
        command = [str(self._source / "darkpipe"), *arguments]
        done = subprocess.run(
            command,
            env={**os.environ, "DARKPIPE_CACHE": str(self._cache)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise ToolError(command, done.returncode, done.stderr)
        return done.stdout


def _files() -> list[str]:
    """List the project's files, also those that are not committed yet."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=SOURCE, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BuildError(f"{SOURCE} is no git checkout: {done.stderr.strip()}", "clone the repository")
    return [name for name in done.stdout.split("\0") if name and (SOURCE / name).exists()]


def image_of(result: Path) -> Path:
    """Give the compressed image in a result's folder.

    Raises:
        BuildError: there is none.
    """
    return find_image(result)


def lock_of(result: Path) -> Path:
    """Give the lock in a result's folder."""
    return result / LOCK_NAME
