"""The spool: sealed messages on the relay's disk, for home and for nobody else.

An item is a file with a random name; in it, age's ciphertext of an envelope and a message. It is written under another
name, synced, renamed, and its folder synced: only then is the message taken. What a power cut leaves is a whole item,
or one that was never acknowledged, and age's last chunk tells home which (age's specification, "Payload").
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pyrage

from relay.envelope import Envelope, Item, Reader

_NAME = re.compile(r"[0-9a-f]{32}")
_PARTIAL = ".new"
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})

OVERHEAD = 64 * 1024
"""Octets that an item may take besides its message: the envelope, and what age and the file system add."""


class SpoolFullError(Exception):
    """There is no room for a message; later there may be."""


class SpoolError(Exception):
    """The disk does not do what it should; the text says what it said."""


@dataclass(frozen=True)
class Stored:
    """An item that is on the disk.

    Args:
        size: of the file, in octets.
    """

    name: str
    size: int


class Room:
    """Room that is kept for one message.

    Args:
        promise: gets more of it.
    """

    def __init__(self, promise: Callable[[int], None]) -> None:
        self._promise = promise
        self.octets = 0

    def grow_to(self, octets: int) -> None:
        """Keep room for a message of so many octets.

        Raises:
            SpoolFullError: there is not so much left; what was kept stays so.
        """
        more = octets + OVERHEAD - self.octets
        if more > 0:
            self._promise(more)
            self.octets += more


class Spool:
    """A folder of items.

    Args:
        folder: it is there, and nobody else may enter it.
        recipients: home's age keys (`age1…`), of which any opens an item.
        budget: octets that all items may take, with those that are on their way.
    """

    def __init__(self, folder: Path, recipients: Sequence[str], budget: int) -> None:
        self._folder, self._budget = folder, budget
        self._recipients = [pyrage.x25519.Recipient.from_str(recipient) for recipient in recipients]
        self._lock = threading.Lock()
        self._promised = 0
        for path in folder.glob(f"*{_PARTIAL}"):
            path.unlink()
        self._used = sum(item.size for item in self.items())

    def items(self) -> list[Stored]:
        """Give all items, in no order."""
        paths = (path for path in self._folder.iterdir() if _NAME.fullmatch(path.name))
        return [Stored(path.name, path.stat().st_size) for path in paths]

    def open(self, name: str) -> Path:
        """Give the file of an item.

        Raises:
            KeyError: there is none of this name.
        """
        path = self._folder / name
        if not _NAME.fullmatch(name) or not path.is_file():
            raise KeyError(name)
        return path

    def remove(self, name: str) -> None:
        """Remove an item that home has; on return it stays removed.

        Raises:
            KeyError: there is none of this name.
        """
        path = self.open(name)
        size = path.stat().st_size
        path.unlink()
        self._sync_folder()
        with self._lock:
            self._used -= size

    @contextmanager
    def room(self, octets: int) -> Iterator[Room]:
        """Keep room for a message until the end of the block.

        Args:
            octets: of the message, as far as they are known.

        Raises:
            SpoolFullError: there is not so much left, of the budget or of the disk.
            SpoolError: the disk has failed.
        """
        room = Room(self._promise)
        try:
            room.grow_to(octets)
            yield room
        finally:
            # Nothing here may fail: what is not given back is lost until the next start.
            with self._lock:
                self._promised -= room.octets

    def _promise(self, octets: int) -> None:
        try:
            disk = os.statvfs(self._folder)
        except OSError as error:
            raise SpoolError(str(error)) from error
        with self._lock:
            if self._used + self._promised + octets > self._budget:
                raise SpoolFullError("the budget is used up")
            # Some file systems, btrfs for one, have no fixed number of inodes and tell of none.
            if disk.f_files and not disk.f_favail:
                raise SpoolFullError("the disk has no inodes left")
            if self._promised + octets > disk.f_bavail * disk.f_frsize:
                raise SpoolFullError("the disk is full")
            self._promised += octets

    def store(self, envelope: Envelope, message: Reader) -> Stored:
        """Seal a message and put it on the disk; on return it is there to stay.

        Args:
            message: its octets as they come in; whatever it raises ends the storing, and nothing is kept.

        Raises:
            SpoolFullError: the disk has become full.
            SpoolError: the disk has failed.
        """
        name = secrets.token_hex(16)
        partial = self._folder / f"{name}{_PARTIAL}"
        source = _Source(Item(envelope, message))
        try:
            size = self._write(partial, source)
            partial.rename(self._folder / name)
            self._sync_folder()
        except (OSError, pyrage.EncryptError) as error:
            # An item whose folder was not synced may be gone after a cut: nobody is told that it is there.
            for path in (partial, self._folder / name):
                with suppress(OSError):
                    path.unlink()
            if source.failure:
                raise source.failure from None
            raise _told(error) from error
        with self._lock:
            self._used += size
        return Stored(name, size)

    def _write(self, path: Path, source: _Source) -> int:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            target = _Target(file.fileno())
            try:
                pyrage.encrypt_io(source, target, self._recipients)
            except pyrage.EncryptError:
                if target.failure:
                    raise target.failure from None
                raise
            os.fsync(file.fileno())
            return file.seek(0, os.SEEK_END)

    def _sync_folder(self) -> None:
        descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _told(error: Exception) -> Exception:
    if isinstance(error, OSError) and error.errno in _NO_ROOM:
        return SpoolFullError("the disk is full")
    return SpoolError(str(error))


class _Source:
    """Gives octets to age, and remembers what kept it from it, which age would tell as text."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self.failure: Exception | None = None

    def read(self, size: int, /) -> bytes:
        try:
            return self._reader.read(size)
        except Exception as error:
            self.failure = error
            raise


class _Target:
    """Takes octets from age, and remembers what kept it from it."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.failure: OSError | None = None

    def write(self, octets: bytes) -> int:
        try:
            return os.write(self._descriptor, octets)
        except OSError as error:
            self.failure = error
            raise

    def flush(self) -> None:
        """Nothing is kept back."""
