"""The store: sealed messages on the relay's disk, or in a place besides it, for home and for nobody else.

An item is age's ciphertext of an envelope and a message. It is written under a name that counts for nothing, synced,
renamed to its entry in the index (relay/entry.py), and its folder synced: only then is the message taken. What a power
cut leaves is a whole item, or one that was never acknowledged, and age's last chunk tells home which (age's
specification, "Payload").
"""

from __future__ import annotations

import errno
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

import pyrage

from model.control import QueuedItem
from model.envelope import Envelope, Reader
from relay.commit import GroupCommit
from relay.entry import IDENTIFIER, Entry, Index
from relay.epoch import Sequence as Numbers
from relay.files import PARTIAL, sync_folder, sync_together
from relay.place import Place, PlaceError, Upload
from relay.room import Room, SpoolFullError
from relay.sealing import Sealing

_T = TypeVar("_T")

_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})

MOST_ITEMS = 30_000
"""Items that may wait: the index is in memory, and takes a third of a KiB for each."""

INODES = 64
"""Inodes that are left to others, such as the file of the next settings."""

_UNSAID = 50 * 2**20
"""Octets that a message is taken to have, of which nothing was said, when there is another place for it."""


class SpoolError(Exception):
    """The disk does not do what it should; the text says what it said."""


@dataclass
class _Ticket:
    """An item that is written, and waits to be synced, for its number and for its name."""

    partial: Path
    descriptor: int
    draft: QueuedItem
    away: bool
    place: Place | None
    begun: int
    """When its file was opened, in nanoseconds of a clock that does not jump."""

    entry: Entry | None = None
    failure: OSError | None = None


@dataclass
class _Promised:
    octets: int = 0
    items: int = 0


@dataclass(frozen=True)
class Content:
    """The ciphertext of an item: a file, or pieces from elsewhere.

    Args:
        pieces: raises PlaceError while it is read when they are not what was written.
    """

    item: QueuedItem
    file: Path | None = None
    pieces: Iterator[bytes] = field(default_factory=lambda: iter(()))


class Spool:
    """The items of a folder, in order.

    Args:
        folder: it is there, and nobody else may enter it.
        keys: home's age recipients (`age1…`), of which any opens an item; without any nothing is taken.
        budget: octets that all items on the disk may take, with those that are on their way.
        place: for what the disk has no room for.

    Raises:
        OSError: the disk has failed.
        pyrage.RecipientError: a key is none.
    """

    def __init__(self, folder: Path, keys: Sequence[str], budget: int, place: Place | None = None) -> None:
        self._folder = folder
        self.use(keys, budget, place)
        self._lock = threading.Lock()
        self._promised = _Promised()
        self._index = Index()
        for path in list(folder.iterdir()):
            if path.name.endswith(PARTIAL):
                path.unlink()
            elif entry := Entry.parse(path.name):
                self._index.add(entry)
        self._numbers = Numbers(folder, self._index.highest)
        self._commits = GroupCommit(self._commit)

    def use(self, keys: Sequence[str], budget: int, place: Place | None = None) -> None:
        """Take other settings, for the messages that come from now on.

        Raises:
            pyrage.RecipientError: a key is none; nothing has changed.
        """
        self._recipients = [pyrage.x25519.Recipient.from_str(key) for key in keys]
        self.budget, self._place = budget, place

    @property
    def ready(self) -> bool:
        """Whether it knows for whom to seal."""
        return bool(self._recipients)

    @property
    def epoch(self) -> str:
        """Within which sequence numbers hold: 32 hexadecimal digits."""
        return self._numbers.epoch

    # ---- What home asks for

    def items(self, after: int = 0, most: int | None = None) -> list[QueuedItem]:
        """Give items in the order of their sequence numbers: those behind one, and so many at most."""
        with self._lock:
            return [entry.item for entry in self._index.after(after, most)]

    def usage(self) -> tuple[int, int]:
        """Give the number of items, and the octets that they take on the disk."""
        with self._lock:
            return len(self._index), self._index.octets

    def open(self, name: str) -> Content:
        """Give an item's ciphertext by its id.

        Raises:
            KeyError: there is none.
            PlaceError: it lies elsewhere, and cannot be had now.
        """
        entry = self._find(name)
        if not entry.away:
            return Content(entry.item, self._folder / entry.name)
        return Content(entry.item, pieces=self._place_of(entry).open(entry.item))

    def remove(self, name: str) -> None:
        """Remove an item that home has; on return it stays removed.

        Raises:
            KeyError: there is none.
            PlaceError: it lies elsewhere, and stays there for now.
            SpoolError: the disk has failed; the item may be there or not.
        """
        entry = self._find(name)
        place = self._place
        if entry.away or (place and place.every):
            # First there: what is left over here is asked for again, what is left over there would be so for ever.
            self._place_of(entry).remove(entry.item)
        try:
            (self._folder / entry.name).unlink(missing_ok=True)
            sync_folder(self._folder)
        except OSError as error:
            raise SpoolError(str(error)) from error
        with self._lock:
            self._index.remove(entry)

    def _find(self, name: str) -> Entry:
        if not IDENTIFIER.fullmatch(name):
            raise KeyError(name)
        with self._lock:
            return self._index.find(name)

    def _place_of(self, entry: Entry) -> Place:
        if self._place is None:
            raise PlaceError(f"item {entry.item.id} lies in a place that the settings do not name any more")
        return self._place

    def held_elsewhere(self, place: Place) -> list[QueuedItem]:
        """Give what lies in a place besides the disk, in order; see `Place.start`."""
        with self._lock:
            return [entry.item for entry in self._index.after(0) if entry.away or place.every]

    # ---- Room

    @contextmanager
    def room(self, octets: int, *, said: bool = True) -> Iterator[Room]:
        """Keep room for a message until the end of the block.

        Args:
            octets: of the message, as far as they are known.
            said: whether its sender has said how many there are.

        Raises:
            SpoolFullError: there is not so much left, of the budget or of the disk or of the place besides it.
            SpoolError: the disk has failed.
        """
        with self._counted():
            room = self._begin_room(octets, said=said)
            try:
                yield room
            finally:
                # Nothing here may fail: what is not given back is lost until the next start.
                if not room.away:
                    with self._lock:
                        self._promised.octets -= room.octets

    @contextmanager
    def _counted(self) -> Iterator[None]:
        """Keep an inode and a line in the index."""
        disk = self._disk()
        with self._lock:
            if len(self._index) + self._promised.items >= MOST_ITEMS:
                raise SpoolFullError(f"{MOST_ITEMS} items wait")
            # Some file systems, btrfs for one, have no fixed number of inodes and tell of none.
            if disk.f_files and self._promised.items + INODES >= disk.f_favail:
                raise SpoolFullError("the disk has no inodes left")
            self._promised.items += 1
        try:
            yield
        finally:
            with self._lock:
                self._promised.items -= 1

    def _begin_room(self, octets: int, *, said: bool) -> Room:
        place, room = self._place, Room(self._promise)
        wanted = octets if said or not place else octets + _UNSAID
        try:
            room.grow_to(wanted)
        except SpoolFullError:
            if place and place.has_room(wanted):
                room = Room(lambda _: self._ask_place(place), away=True)
            room.grow_to(octets)
        return room

    @staticmethod
    def _ask_place(place: Place) -> None:
        if not place.has_room(0):
            raise SpoolFullError("the place besides the disk is full")

    def _disk(self) -> os.statvfs_result:
        try:
            return os.statvfs(self._folder)
        except OSError as error:
            raise SpoolError(str(error)) from error

    def _promise(self, octets: int) -> None:
        disk = self._disk()
        with self._lock:
            if self._index.octets + self._promised.octets + octets > self.budget:
                raise SpoolFullError("the budget is used up")
            if self._promised.octets + octets > disk.f_bavail * disk.f_frsize:
                raise SpoolFullError("the disk is full")
            self._promised.octets += octets

    # ---- Storing

    @property
    def waits(self) -> bool:
        """Whether keeping a message may take long, since a place besides the disk gets it, too."""
        return self._place is not None

    def store(self, envelope: Envelope, message: Reader, room: Room | None = None) -> QueuedItem:
        """Seal a message and keep it; on return it is there to stay.

        Args:
            message: its octets as they come in; whatever it raises ends the storing, and nothing is kept.
            room: that is kept for it; without it, the disk.

        Raises:
            SpoolFullError: the disk has become full, or the place besides it does not take it.
            SpoolError: the disk has failed.
        """
        ticket = self._write(envelope, message, room)
        self._commits.put([ticket])
        return self._finish(ticket)

    def store_all(self, messages: Sequence[tuple[Envelope, Reader, Room]]) -> list[QueuedItem | Exception]:
        """Seal messages and keep them; gives for each its item, or what `store` would raise."""
        tickets = [_told_of(partial(self._write, *message)) for message in messages]
        self._commits.put([ticket for ticket in tickets if isinstance(ticket, _Ticket)])
        return [
            _told_of(partial(self._finish, ticket)) if isinstance(ticket, _Ticket) else ticket for ticket in tickets
        ]

    def _write(self, envelope: Envelope, message: Reader, room: Room | None = None) -> _Ticket:
        """Write an item, up to its name; on return its file is open, and not synced."""
        name, place = secrets.token_hex(16), self._place
        path = self._folder / f"{name}{PARTIAL}"
        away = room is not None and room.away
        sealing = Sealing(envelope, message, self._recipients)
        descriptor: int | None = None
        upload: Upload | None = None
        begun = time.monotonic_ns()
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
            upload = place.begin(name) if place and (away or place.every) else None
            size, sha256 = sealing.write(descriptor, upload, on_disk=not away)
        except BaseException as error:
            if upload:
                upload.abort()
            if descriptor is not None:
                os.close(descriptor)
            with suppress(OSError):
                path.unlink()
            if not isinstance(error, OSError | pyrage.EncryptError | PlaceError):
                raise
            if sealing.failure:
                raise sealing.failure from None
            raise _told(error) from error
        draft = QueuedItem(name, 0, size, max(envelope.received, 0), sha256)
        return _Ticket(path, descriptor, draft, away, place if upload else None, begun)

    @staticmethod
    def _finish(ticket: _Ticket) -> QueuedItem:
        """Give the item that was kept; of one that could not be, remove what is left of it."""
        os.close(ticket.descriptor)
        if ticket.failure is None:
            assert ticket.entry, "it has an entry or a failure"
            return ticket.entry.item
        with suppress(OSError):
            ticket.partial.unlink()
        if ticket.place:
            with suppress(PlaceError):
                ticket.place.remove(ticket.draft)
        raise _told(ticket.failure) from ticket.failure

    def _commit(self, tickets: Sequence[_Ticket]) -> None:
        """Sync items, give them their numbers and names, and sync those once for all."""
        failures = sync_together([ticket.descriptor for ticket in sorted(tickets, key=lambda one: one.begun)])
        named: list[tuple[_Ticket, Entry]] = []
        for ticket in tickets:
            if failure := failures.get(ticket.descriptor):
                ticket.failure = failure
                continue
            one = ticket.draft
            try:
                # Only one thread at a time commits.
                item = QueuedItem(one.id, self._numbers.take(), one.size, one.received, one.sha256)
                entry = Entry(item, ticket.away)
                ticket.partial.rename(self._folder / entry.name)
            except OSError as error:
                ticket.failure = error
            else:
                named.append((ticket, entry))
        try:
            sync_folder(self._folder)
        except OSError as error:
            # An item whose folder was not synced may be gone after a cut: nobody is told that it is there.
            for ticket, entry in named:
                ticket.failure = error
                with suppress(OSError):
                    (self._folder / entry.name).unlink()
            # Else a cut could bring back what its sender sends again.
            with suppress(OSError):
                sync_folder(self._folder)
            return
        with self._lock:
            for ticket, entry in named:
                ticket.entry = entry
                self._index.add(entry)


def _told(error: Exception) -> Exception:
    if isinstance(error, PlaceError) or (isinstance(error, OSError) and error.errno in _NO_ROOM):
        return SpoolFullError("there is no room for it now")
    return SpoolError(str(error))


def _told_of(act: Callable[[], _T]) -> _T | Exception:
    try:
        return act()
    except (SpoolFullError, SpoolError) as error:
        return error
