"""A folder of finished results, each under the id of its inputs, which lie beside it.

An entry appears whole, by one rename, never changes, and goes whole. The power may go before all of it has reached the
disk, and leave files that are shorter than they were: their sizes stand in the record, and such an entry is none.
Two builds that want the same entry wait for one another. Whoever uses an entry holds a lock on it, and only what nobody
uses can be evicted.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from builder.digests import content_id, tree_size
from builder.errors import BuildError
from builder.flock import alone, grab, share

KEEP_VARIABLE = "DARKPIPE_KEEP"
"""Environment variable; when it is not empty, the workspaces of failed builds are kept."""

Make = Callable[[Path], Mapping[str, object] | None]
"""Fills an empty folder; returns inputs that became known only by doing so, such as the state of an archive."""

_RECORD = "inputs.json"
_IDENTIFIER = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Entry:
    """A finished result and where it came from.

    Args:
        folder: what was made, and its record `inputs.json`.
        name: the result, as the user sees it.
        inputs: all that it depends on; empty when there is no record that can be read.
        made: when it was finished, in seconds since 1970.
        used: when a build last used it.
        size: bytes on the disk.
    """

    folder: Path
    name: str
    inputs: Mapping[str, object]
    made: float
    used: float
    size: int

    @property
    def kind(self) -> str:
        """The cache's folder for such results."""
        return self.folder.parent.name

    @property
    def identifier(self) -> str:
        """The hash over its inputs."""
        return self.folder.name


@dataclass(frozen=True)
class Cache:
    """The cache folder of one user.

    Args:
        root: the folder; it is made when it is missing.
        remove_tree: removes a folder that may hold files of subordinate ids (see `Sandbox.remove`).
    """

    root: Path
    remove_tree: Callable[[Path], None] = shutil.rmtree
    _held: list[int] = field(default_factory=list, init=False, repr=False, compare=False)

    @classmethod
    def default(cls) -> Cache:
        """The cache that the environment names: `$DARKPIPE_CACHE`, or `darkpipe` in the XDG cache folder."""
        chosen = os.environ.get("DARKPIPE_CACHE")
        base = Path(os.environ.get("XDG_CACHE_HOME", ""))
        if not base.is_absolute():  # a relative one must be ignored (XDG Base Directory Specification)
            base = Path.home() / ".cache"
        return cls(Path(chosen).absolute() if chosen else base / "darkpipe")

    def find(self, kind: str, identifier: str) -> Path | None:
        """Give a finished entry's folder, or None; from now on it is in use, until `release` or our end."""
        entry = self.root / kind / identifier
        descriptor = share(entry / _RECORD)
        if descriptor is None:
            return None
        if not _is_whole(entry):
            os.close(descriptor)
            return None
        self._held.append(descriptor)
        with suppress(PermissionError):  # the cache may be another user's who lets us read it
            os.utime(descriptor)
        return entry

    def produce(self, kind: str, name: str, inputs: Mapping[str, object], make: Make) -> Path:
        """Give the folder of an entry that is then in use; `make` fills it when there is none yet.

        Args:
            kind: the cache's folder for such results.
            name: the result, as the user sees it.
            inputs: all that it depends on and that is known beforehand.

        Raises:
            BuildError: the cache cannot be written.
            Exception: whatever `make` raises; the cache is then as it was.
        """
        identifier = content_id(inputs)
        while True:
            with alone(self._folder("locks") / f"{kind}-{identifier}"):
                entry = self.find(kind, identifier)
                if entry is None:
                    identifier = self._make(kind, name, inputs, make)
            # Between the two somebody may have evicted it; then it is made again.
            if entry := entry or self.find(kind, identifier):
                return entry

    def entries(self) -> list[Entry]:
        """List what is there, the least recently used first."""
        found = [_read(folder) for folder in self.root.glob("*/*") if _IDENTIFIER.fullmatch(folder.name)]
        return sorted((entry for entry in found if entry), key=lambda entry: (entry.used, entry.folder))

    def evict(self, entry: Entry) -> bool:
        """Remove an entry; False when somebody uses it or it is gone."""
        with self.workspace() as work, grab(_lockable(entry)) as free:
            if free:
                entry.folder.rename(work / "evicted")
            return free

    def in_use(self, entry: Entry) -> bool:
        """Whether a running build holds an entry."""
        with grab(_lockable(entry)) as free:
            return not free

    def release(self) -> None:
        """End the use of all entries that we have found or produced."""
        while self._held:
            os.close(self._held.pop())

    @contextmanager
    def workspace(self) -> Iterator[Path]:
        """Give an empty folder that is removed at the end, also that of a build that was killed, at the next call.

        With `$DARKPIPE_KEEP` set the folder of work that fails stays, so that the failing command can be run again.
        """
        parent = self._folder("work")
        with alone(self._folder("locks") / "work"):
            left = [] if os.environ.get(KEEP_VARIABLE) else list(parent.iterdir())
            work = Path(tempfile.mkdtemp(dir=parent))
            held = os.open(work, os.O_RDONLY | os.O_DIRECTORY)
            fcntl.flock(held, fcntl.LOCK_EX)
            rubbish = _collect(left, work / "rubbish")
        try:
            self.remove_tree(rubbish)
            yield work
        except BaseException:
            if not os.environ.get(KEEP_VARIABLE):
                self.remove_tree(work)
            raise
        else:
            self.remove_tree(work)
        finally:
            os.close(held)

    def _make(self, kind: str, name: str, inputs: Mapping[str, object], make: Make) -> str:
        with self.workspace() as work:
            made = work / "entry"
            made.mkdir()
            inputs = {**inputs, **(make(made) or {})}
            sizes = {path.name: path.stat().st_size for path in made.iterdir() if path.is_file()}
            record = {"name": name, "made": time.time(), "bytes": tree_size(made), "sizes": sizes, "inputs": inputs}
            (made / _RECORD).write_text(json.dumps(record, indent=1, sort_keys=True) + "\n", encoding="utf-8")
            identifier = content_id(inputs)
            entry = self._folder(kind) / identifier
            if not _is_whole(entry):  # what we have learned may tell that it was there already
                if entry.exists():
                    entry.rename(work / "broken")
                made.rename(entry)
        return identifier

    def _folder(self, name: str) -> Path:
        folder = self.root / name
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BuildError(f"the cache folder {self.root} cannot be made: {error.strerror}", _CACHE_HINT) from error
        return folder


def _lockable(entry: Entry) -> Path:
    record = entry.folder / _RECORD
    return record if record.exists() else entry.folder


def _collect(left: Iterable[Path], rubbish: Path) -> Path:
    """Move the workspaces of builds that were killed to a new folder, where no other build takes them up too."""
    rubbish.mkdir()
    for folder in left:
        with grab(folder) as free:
            if free:
                folder.rename(rubbish / folder.name)
    return rubbish


def _is_whole(entry: Path) -> bool:
    """Tell whether the files right in an entry's folder are as long as they were made; those deeper are not asked."""
    try:
        record = json.loads((entry / _RECORD).read_text(encoding="utf-8"))
        # Older versions have noted no sizes.
        return all((entry / name).stat().st_size == size for name, size in record.get("sizes", {}).items())
    except (OSError, ValueError, AttributeError):
        return False


def _read(folder: Path) -> Entry | None:
    path = folder / _RECORD
    try:
        record, used = json.loads(path.read_text(encoding="utf-8")), path.stat().st_mtime
        return Entry(folder, record["name"], record["inputs"], record["made"], used, record["bytes"])
    except (OSError, ValueError, LookupError, TypeError):
        if not folder.is_dir():
            return None
        used = folder.stat().st_mtime
        return Entry(folder, "damaged, or of an older version", {}, used, used, tree_size(folder))


_CACHE_HINT = "set DARKPIPE_CACHE to a folder that you can write, with 10 GB free"
