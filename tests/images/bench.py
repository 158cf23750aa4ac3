"""Builds in a checkout and a cache of their own, for tests that change and kill things."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from builder.cache import Cache
from builder.container import CHECKOUT
from builder.flock import grab
from builder.sandbox import remove_tree
from builder.workshop import Stage
from tests.images.machine import REPOSITORY

SITE = (REPOSITORY / "examples/home.yaml").read_text(encoding="utf-8")
_CODE = (*CHECKOUT, "examples", "pyproject.toml")
_EXPENSIVE = (Stage.TOOLS, Stage.PACKAGES)


class Bench:
    """A checkout of its own and a cache of its own, which begins with the tools and the package layer of ours."""

    def __init__(self, folder: Path, cache: Path) -> None:
        self.checkout = folder / "checkout"
        self.cache = cache
        self.checkout.mkdir()
        for name in _CODE:
            subprocess.run(["cp", "-R", REPOSITORY / name, self.checkout / name], check=True)
        for name in (*_EXPENSIVE, "archive"):
            if (source := Cache.default().root / name).is_dir():  # a first test may come before any build
                subprocess.run(["cp", "-a", "--link", source, cache / name], check=True)
        # Locks are on files: whoever uses an entry of our cache must not seem to use one of this.
        for record in cache.glob("*/*/inputs.json"):
            own = record.with_name("inputs.json.own")
            shutil.copy2(record, own)
            own.replace(record)
        self.folder = folder

    def start(self, name: str, site: str = SITE, options: Sequence[str] = ()) -> subprocess.Popen[str]:
        """Start a build whose result goes to a folder of that name."""
        path = self.folder / f"{name}.yaml"
        path.write_text(site, encoding="utf-8")
        command = [str(self.checkout / "darkpipe"), "build", str(path), "--output", str(self.folder / name), *options]
        return subprocess.Popen(
            command,
            env={**os.environ, "DARKPIPE_CACHE": str(self.cache)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def build(self, name: str, site: str = SITE, options: Sequence[str] = ()) -> tuple[Path, list[str]]:
        """Build; gives the result and the stages that were made, not reused."""
        return finish(self.start(name, site, options))

    def darkpipe(self, *arguments: str) -> str:
        """Run another command on the same cache."""
        environment = {**os.environ, "DARKPIPE_CACHE": str(self.cache)}
        command = [str(self.checkout / "darkpipe"), *arguments]
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False)
        assert done.returncode in {0, 1}  # as with diff(1)
        return done.stdout

    def leftovers(self) -> list[Path]:
        """What a build should not leave."""
        return [*(self.cache / "work").iterdir(), *(self.cache / "locks").iterdir()]


def abandoned_workspaces() -> list[Path]:
    """List what programs that are no more have left in our cache; somebody else may build at the same time."""
    left = []
    for folder in (Cache.default().root / "work").iterdir():
        with grab(folder) as free:
            left += [folder] if free and folder.exists() else []
    return left


def finish(process: subprocess.Popen[str]) -> tuple[Path, list[str]]:
    """Wait for a build; gives the result and the stages that were made."""
    out, err = process.communicate(timeout=1200)
    assert process.returncode == 0, err
    return Path(out.splitlines()[-1]), re.findall(r"^(.+): [0-9.]+ s$", err, re.MULTILINE)


def sums(result: Path) -> str:
    """The checksums of all that a build has made."""
    return (result / "SHA256SUMS").read_text(encoding="utf-8")


@contextmanager
def new_bench(folder: Path) -> Iterator[Bench]:
    """Make a bench whose cache lies beside our own, so that its entries can be linked."""
    cache = Cache.default().root.with_name(f"bench-{os.getpid()}-{folder.name}")
    cache.mkdir()
    try:
        yield Bench(folder, cache)
    finally:
        remove_tree(cache)
