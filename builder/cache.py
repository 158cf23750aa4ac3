"""A folder of finished results, each under the id of its inputs.

An entry appears whole, by one rename, or not at all; two builds that want the same entry wait for one another.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from builder.errors import BuildError

KEEP_VARIABLE = "DARKPIPE_KEEP"
"""Environment variable; when it is not empty, the workspaces of failed builds are kept."""


def content_id(inputs: Mapping[str, object]) -> str:
    """Hash named inputs to an id of 64 hexadecimal digits, independent of their order.

    Args:
        inputs: values that JSON can hold.
    """
    text = json.dumps(inputs, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def tree_digests(*roots: Path) -> dict[str, str]:
    """Hash every file below some folders, with its executable bit.

    Returns:
        `<folder name>/<relative path>` to a digest; folders that are absent contribute nothing.
    """
    found: dict[str, str] = {}
    for root in roots:
        for path in sorted(root.rglob("*")):
            if "__pycache__" in path.parts or path.is_dir():
                continue
            name = f"{root.name}/{path.relative_to(root)}"
            if path.is_symlink():
                found[name] = f"-> {path.readlink()}"
            else:
                executable = "x" if path.stat().st_mode & 0o100 else "-"
                found[name] = executable + hashlib.sha256(path.read_bytes()).hexdigest()
    return found


@dataclass(frozen=True)
class Cache:
    """The cache folder of one user.

    Args:
        root: the folder; it is made when it is missing.
        remove_tree: removes a folder that may hold files of subordinate ids (see `Sandbox.remove`).
    """

    root: Path
    remove_tree: Callable[[Path], None] = shutil.rmtree

    @classmethod
    def default(cls) -> Cache:
        """The cache that the environment names: `$DARKPIPE_CACHE`, or `darkpipe` in the XDG cache folder."""
        chosen = os.environ.get("DARKPIPE_CACHE")
        base = Path(os.environ.get("XDG_CACHE_HOME", ""))
        if not base.is_absolute():  # a relative one must be ignored (XDG Base Directory Specification)
            base = Path.home() / ".cache"
        return cls(Path(chosen).absolute() if chosen else base / "darkpipe")

    def find(self, kind: str, identifier: str) -> Path | None:
        """Give a finished entry's folder, or None."""
        entry = self.root / kind / identifier
        return entry if entry.is_dir() else None

    def produce(self, kind: str, identifier: str, make: Callable[[Path], None], *, replace: bool = False) -> Path:
        """Give an entry's folder; `make` fills an empty folder when there is none yet.

        Args:
            replace: call `make` in any case; the old entry is there until the new one is finished.

        Raises:
            BuildError: the cache cannot be written.
            Exception: whatever `make` raises; the cache is then as it was.
        """
        with self._lock(f"{kind}-{identifier}"):
            entry = self.root / kind / identifier
            if replace or not entry.is_dir():
                with self.workspace() as work:
                    made = work / "entry"
                    made.mkdir()
                    make(made)
                    entry.parent.mkdir(parents=True, exist_ok=True)
                    if entry.is_dir():
                        entry.rename(work / "old")
                    made.rename(entry)
            return entry

    @contextmanager
    def workspace(self) -> Iterator[Path]:
        """Give an empty folder that is removed at the end, also that of a build that was killed, at the next call.

        With `$DARKPIPE_KEEP` set the folder of work that fails stays, so that the failing command can be run again.
        """
        parent = self._folder("work")
        self._sweep(parent)
        work = Path(tempfile.mkdtemp(dir=parent))
        held = os.open(work, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(held, fcntl.LOCK_EX)
        try:
            yield work
        except BaseException:
            if not os.environ.get(KEEP_VARIABLE):
                self.remove_tree(work)
            raise
        else:
            self.remove_tree(work)
        finally:
            os.close(held)

    def _sweep(self, parent: Path) -> None:
        if os.environ.get(KEEP_VARIABLE):
            return
        for left in parent.iterdir():
            try:
                held = os.open(left, os.O_RDONLY | os.O_DIRECTORY)
            except OSError:  # gone by now, no folder, or another user's
                continue
            try:
                # A folder younger than a minute may be one that another build has made and not locked yet.
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(held).st_mtime < time.time() - 60:
                    self.remove_tree(left)
            except BlockingIOError:
                pass
            finally:
                os.close(held)

    @contextmanager
    def _lock(self, name: str) -> Iterator[None]:
        with (self._folder("locks") / name).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _folder(self, name: str) -> Path:
        folder = self.root / name
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BuildError(f"the cache folder {self.root} cannot be made: {error.strerror}", _CACHE_HINT) from error
        return folder


_CACHE_HINT = "set DARKPIPE_CACHE to a folder that you can write, with 8 GB free"
