"""A disk that fails, and that forgets at a power cut what was not synced.

The code under test works on true files; a few functions of `os` are wrapped. For each file the disk knows how many
octets were synced, and for each folder which names: fsync(2) of the one says nothing about the other. At a power cut of
what came later a part is kept, chosen by chance: names in the order in which they were given, octets from the front.
"""

from __future__ import annotations

import errno
import os
import random
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

_LINK, _OPEN, _FSYNC, _UNLINK, _WRITE = os.link, os.open, os.fsync, os.unlink, os.write
_RENAME, _STATVFS = os.replace, os.statvfs


_MOST_KEPT = 500


class Cut(BaseException):
    """The machine is off: nothing that its programs would still do happens."""


@dataclass
class _Folder:
    """Names and inodes that a cut leaves for sure, and what was done since, in its order."""

    synced: dict[str, int] = field(default_factory=dict)
    since: list[tuple[str, int | None]] = field(default_factory=list)
    names: dict[str, int] = field(default_factory=dict)


Point = Callable[[str], str | None]
"""Is told of each call, and says what happens: `error`, `full`, `before` or `after` (the machine goes off), None."""


class Disk:
    """The disk of one machine during one of its lives.

    Args:
        root: its folder.
        point: see there.
        blind: whether fsync(2) does nothing: a planted fault.
    """

    def __init__(self, root: Path, point: Point, *, blind: Callable[[str], bool] = lambda path: False) -> None:
        self.root, self._point, self._blind = root, point, blind
        self.dead = False
        self.lock = threading.RLock()
        """Held at each call, and while what is known is looked at: the bucket's thread writes to the disk as well."""
        self._attic = root.with_name(f"{root.name}.attic")
        self._attic.mkdir()
        self._sizes: dict[int, int] = {}
        self._folders: dict[str, _Folder] = {}
        for folder in (root, *(path for path in root.rglob("*") if path.is_dir())):
            files = [path for path in folder.iterdir() if path.is_file() and not _is_base(path.name)]
            names = {path.name: self._keep(path) for path in files}
            self._folders[str(folder)] = _Folder(dict(names), [], dict(names))
            self._sizes.update((path.stat().st_ino, path.stat().st_size) for path in files)

    def owns(self, path: str) -> bool:
        return path.startswith(f"{self.root}/") or path == str(self.root)

    def cut(self) -> None:
        self.dead = True
        raise Cut

    def call(self, name: str, path: str, do: Callable[[], Any]) -> Any:
        with self.lock:
            if self.dead:
                raise Cut
            what = self._point(name)
            if what == "before":
                self.cut()
            if what in {"error", "full"}:
                raise OSError(errno.EIO if what == "error" else errno.ENOSPC, "planted", path)
            result = do()
            if what == "after":
                self.cut()
            return result

    def is_full(self) -> bool:
        """Tell whether there is neither room nor an inode now."""
        return self._point("statvfs") == "full"

    # ---- What is known of files and folders

    def _keep(self, path: Path) -> int:
        """Hold on to a file's octets, whatever becomes of its name."""
        inode = path.stat().st_ino
        kept = self._attic / str(inode)
        if not kept.exists():
            _LINK(path, kept)
        return inode

    def _look(self, folder: str) -> _Folder:
        """Note files that have appeared without a wrapped call."""
        known = self._folders.setdefault(folder, _Folder())
        with os.scandir(folder) as found:
            entries = list(found)
        for entry in entries:
            if entry.is_file() and not _is_base(entry.name) and known.names.get(entry.name) != entry.inode():
                known.names[entry.name] = self._keep(Path(entry.path))
                known.since.append((entry.name, entry.inode()))
        return known

    def renamed(self, source: str, target: str) -> None:
        folder = self._look(str(Path(target).parent))
        folder.since.append((Path(source).name, None))
        folder.names.pop(Path(source).name, None)

    def unlinked(self, path: str) -> None:
        folder = self._folders.setdefault(str(Path(path).parent), _Folder())
        folder.since.append((Path(path).name, None))
        folder.names.pop(Path(path).name, None)

    def before_removal(self, path: str) -> None:
        """See a file before its name goes."""
        folder = str(Path(path).parent)
        with self.lock:
            known = self._folders.setdefault(folder, _Folder())
            name = Path(path).name
            if name not in known.names and Path(path).is_file():
                known.names[name] = self._keep(Path(path))
                known.since.append((name, known.names[name]))

    def synced(self, descriptor: int, path: str) -> None:
        if self._blind(path):
            return
        if Path(path).is_dir():
            folder = self._look(path)
            folder.synced, folder.since = dict(folder.names), []
            self._clear_attic()
            return
        found = os.fstat(descriptor)
        self._sizes[found.st_ino] = found.st_size

    def _clear_attic(self) -> None:
        kept = list(self._attic.iterdir())
        if len(kept) < _MOST_KEPT:
            return
        needed = {
            inode
            for folder in self._folders.values()
            for inode in (*folder.synced.values(), *folder.names.values(), *(one for _, one in folder.since))
        }
        for path in kept:
            if int(path.name) not in needed:
                _UNLINK(path)
                self._sizes.pop(int(path.name), None)

    # ---- The next life

    def after_kill(self, root: Path) -> None:
        """Make the disk as a kill of its programs leaves it: with everything that they have written."""
        shutil.copytree(self.root, root, copy_function=os.link)

    def after_power_cut(self, root: Path, chance: random.Random) -> None:
        """Make the disk as a power cut leaves it."""
        for folder in list(self._folders):
            self._look(folder)
        for path, folder_known in self._folders.items():
            place = root / Path(path).relative_to(self.root)
            place.mkdir(parents=True, exist_ok=True)
            names = dict(folder_known.synced)
            for name, inode in folder_known.since[: chance.choice([0, chance.randint(0, len(folder_known.since))])]:
                if inode is None:
                    names.pop(name, None)
                else:
                    names[name] = inode
            for name, inode in names.items():
                self._restore(inode, place / name, chance)

    def _restore(self, inode: int, path: Path, chance: random.Random) -> None:
        whole = (self._attic / str(inode)).read_bytes()
        sure = min(self._sizes.get(inode, 0), len(whole))
        path.write_bytes(whole[: chance.choice([sure, chance.randint(sure, len(whole))])])


def _is_base(name: str) -> bool:
    """Tell whether a file is sqlite's, which works past `os`; tests/simulation/journal.py answers for it."""
    return name.startswith("journal.db")


def _path_of(descriptor: int) -> str:
    return str(Path(f"/proc/self/fd/{descriptor}").readlink())


class _Calls:
    """The wrapped calls.

    Args:
        disks: all that are there now.
    """

    def __init__(self, disks: Callable[[], list[Disk]]) -> None:
        self._disks = disks

    def _owner(self, path: Any) -> Disk | None:
        text = os.fspath(path) if not isinstance(path, int) else ""
        return next((disk for disk in self._disks() if disk.owns(str(text))), None)

    def open(self, path: Any, flags: int, *rest: Any, **more: Any) -> int:
        disk = self._owner(path) if flags & os.O_CREAT else None
        made: int = _through(disk, "open", path, lambda: _OPEN(path, flags, *rest, **more))
        return made

    def write(self, descriptor: int, octets: Any) -> int:
        path = _path_of(descriptor)
        written: int = _through(self._owner(path), "write", path, lambda: _WRITE(descriptor, octets))
        return written

    def fsync(self, file: Any) -> None:
        descriptor = file if isinstance(file, int) else file.fileno()
        path = _path_of(descriptor)
        if disk := self._owner(path):
            disk.call("fsync", path, lambda: disk.synced(descriptor, path))
        else:
            _FSYNC(descriptor)

    def rename(self, source: Any, target: Any, **more: Any) -> None:
        disk = self._owner(source)

        def do() -> None:
            _RENAME(source, target, **more)
            if disk:
                disk.renamed(str(source), str(target))

        if disk:
            disk.before_removal(str(source))
        _through(disk, "rename", source, do)

    def unlink(self, path: Any, **more: Any) -> None:
        disk = self._owner(path)

        def do() -> None:
            _UNLINK(path, **more)
            if disk:
                disk.unlinked(str(path))

        if disk:
            disk.before_removal(str(path))
        _through(disk, "unlink", path, do)

    def statvfs(self, path: Any) -> os.statvfs_result:
        found, disk = _STATVFS(path), self._owner(path)
        if disk and disk.is_full():
            return os.statvfs_result((*found[:3], 0, 0, found[5], 0, 0, *found[8:10]))
        return found


def _through(disk: Disk | None, name: str, path: Any, do: Callable[[], Any]) -> Any:
    return disk.call(name, str(path), do) if disk else do()


@contextmanager
def wrapped(disks: Callable[[], list[Disk]]) -> Iterator[None]:
    """Let calls of `os` go through the disk that owns the file, for as long as the block lasts.

    Args:
        disks: gives all that are there now.
    """
    calls = _Calls(disks)
    with mock.patch.multiple(
        os,
        open=calls.open,
        write=calls.write,
        fsync=calls.fsync,
        rename=calls.rename,
        replace=calls.rename,
        unlink=calls.unlink,
        statvfs=calls.statvfs,
    ):
        yield
