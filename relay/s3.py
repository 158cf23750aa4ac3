"""A bucket of S3 as a place for items: what the relay's disk has no room for, or everything besides the disk.

Nothing is believed of the store. An item counts when each of its pieces, and records that list it, were read back; what
the store does not do in time is not done. Its owner sees sizes and times and random names, and can destroy, but not
read, change, replace or hide anything unseen (model/bucket.py).
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from model.bucket import HEAD, LARGEST_HEAD, NAME, PIECE, BucketError, Entry, Seal
from model.control import BucketStatus, Fault, QueuedItem
from model.s3 import Mode, S3Settings
from model.s3_objects import Objects, StoreError, open_store
from relay.place import LostError, PlaceError
from relay.s3_records import Records
from relay.s3_state import FolderState, state_path

_T = TypeVar("_T")

MOST_UPLOADS = 32
"""Items on their way into the bucket at once, each with a piece in memory; the next one waits."""

_WAIT = 30.0
"""Seconds that an item waits for its turn."""


@dataclass(frozen=True)
class Rhythm:
    """When the place looks after its bucket.

    Args:
        heartbeat: seconds between two heads when nothing changes: home sees by them until when the relay was well.
        soon: seconds for which changes that nobody waits for are gathered.
        pauses: seconds before the next look at a store that has failed, again and again.
    """

    heartbeat: float = 600.0
    soon: float = 2.0
    pauses: tuple[float, ...] = (2.0, 5.0, 15.0, 60.0)


_MOST_KEPT = 3
"""Objects that cannot be deleted, until the others are not tried either before the next time."""

_MAY = "let the key in `s3` delete objects, and see whether a rule of the bucket's own keeps them"
_REMEDY = "see whether the store is well and the keys and the bucket in `s3` are right; the relay tries by itself"


class S3Place:
    """Items in a folder of a bucket.

    Args:
        settings: of the bucket.
        folder: on the disk, where the place keeps what it has to know after a start.
        epoch: of the queue.
        now: seconds since 1970.
        cleans: whether what is in no index is waste. Not when a place takes over from another while messages come: one
            of them may be about to get into the index.
        objects: of the bucket; without them, those of a store that is asked for as long as the settings' default says.

    Raises:
        OSError: the disk fails.
        ValueError: the settings' secret is none.
    """

    def __init__(
        self,
        settings: S3Settings,
        folder: Path,
        epoch: str,
        now: Callable[[], float] = time.time,
        *,
        cleans: bool = True,
        objects: Objects | None = None,
        rhythm: Rhythm | None = None,
    ) -> None:
        self.every = settings.mode is Mode.WRITE_THROUGH
        self._settings, self._epoch, self._now = settings, epoch, now
        self._path = state_path(folder, settings)
        self._state = FolderState.begin(self._path, epoch, settings.seal)
        self._cleans, self._rhythm = cleans, rhythm or Rhythm()
        self._objects = objects or Objects(open_store(settings), settings.prefix)
        self._lock = threading.Lock()
        self._uploads: set[Upload] = set()
        self._turn = threading.BoundedSemaphore(MOST_UPLOADS)
        self._waste: set[str] = set()
        self._fault: Fault | None = None
        self._strange: Fault | None = None
        self._litter: Fault | None = None
        self._seen = False
        self._wake, self._stopped = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._look_after, name="bucket", daemon=True)
        self._use_folder(())

    def _use_folder(self, entries: Sequence[Entry]) -> None:
        folder = self._state.folder
        self._seal = Seal(self._settings.seal, folder)
        first = self._state.first_version
        self._records = Records(
            self._objects, self._seal, folder, self._epoch, first, partial(self._state.note, self._path)
        )
        self._records.add(entries)

    # ---- What the store asks for

    def status(self) -> BucketStatus | None:
        """Give what home should remember; None before the bucket has taken a head."""
        records = self._records
        if not records.version:
            return None
        return BucketStatus(self._state.folder, records.version, records.written, records.octets)

    def start(self, items: Sequence[QueuedItem]) -> None:
        """Take what the index says to lie here, in the order of arrival; the thread begins to look after the bucket."""
        self._records.add(Entry(item.id, item.size, item.received, item.sha256) for item in items)
        self._thread.start()

    def stop(self) -> None:
        """End the thread, and take nothing more; returns soon."""
        self._stopped.set()
        self._wake.set()

    def faults(self) -> tuple[Fault, ...]:
        """Give what home should know of the bucket."""
        return tuple(fault for fault in (self._fault, self._strange, self._litter) if fault)

    def has_room(self, octets: int) -> bool:
        """Tell whether an item of so many octets may be begun, as far as is known here."""
        with self._lock:
            coming = sum(upload.size for upload in self._uploads)
        return self._is_well() and self._records.octets + coming + octets <= self._settings.budget

    def _is_well(self) -> bool:
        return self._seen and self._fault is None and not self._stopped.is_set()

    def begin(self, name: str) -> Upload:
        """Begin to write an item.

        Raises:
            PlaceError: the store does not answer, or the budget is used up.
        """
        if not self._turn.acquire(timeout=_WAIT):
            raise PlaceError("too many items are on their way to the S3 store")
        upload = Upload(self, name)
        with self._lock:
            self._uploads.add(upload)
        if not self.has_room(0):
            upload.abort()
            raise PlaceError("the S3 store does not answer, or its budget is used up")
        return upload

    def open(self, item: QueuedItem) -> Iterator[bytes]:
        """Give the octets of an item, piece by piece.

        Raises:
            LostError: the store does not have all of it. That it has other octets is known behind the last piece only.
            PlaceError: the store fails.
        """
        entry = Entry(item.id, item.size, item.received, item.sha256)
        for folder in (self._state.folder, *self._state.left):
            names = [f"{folder}/{name}" for name in Seal(self._settings.seal, folder).piece_names(entry)]
            # Before the first octet goes out: home goes on with the next item then, and not when it is cut off.
            if all(self._ask(self._objects.size, name) == entry.piece_size(n) for n, name in enumerate(names)):
                return self._read(item, entry, names)
        raise self._lost(item)

    def _read(self, item: QueuedItem, entry: Entry, names: Sequence[str]) -> Iterator[bytes]:
        digest = hashlib.sha256()
        for number, name in enumerate(names):
            size = entry.piece_size(number)
            piece = self._ask(partial(self._objects.get, most=size), name)
            if piece is None or len(piece) != size:
                raise self._lost(item)
            digest.update(piece)
            yield piece
        if digest.hexdigest() != item.sha256:
            raise self._lost(item)

    @staticmethod
    def _ask(ask: Callable[[str], _T], name: str) -> _T:
        try:
            return ask(name)
        except StoreError as error:
            raise PlaceError(str(error)) from None

    def _lost(self, item: QueuedItem) -> LostError:
        self._strange = self._told(
            "the S3 store does not give back items that it was given",
            "look after the bucket: who owns it, and whether a rule of its own deletes objects",
        )
        return LostError(f"the S3 store does not give back what it was given: item {item.id}")

    def remove(self, item: QueuedItem) -> None:
        """Count an item no longer; its octets go as soon as the store answers."""
        entry = self._records.remove(item.id)
        entry = entry or Entry(item.id, item.size, item.received, item.sha256)
        self._throw_away(self._seal.piece_names(entry))

    # ---- Used by uploads

    def put_piece(self, item: str, number: int, octets: bytes) -> None:
        """Put a piece of an item.

        Raises:
            PlaceError: the store does not take it.
        """
        if not self.has_room(0):  # what was written of the item is counted already
            raise PlaceError("the S3 store does not answer, or its budget is used up")
        self._or_fail(lambda: self._objects.put(f"{self._state.folder}/{self._seal.piece_name(item, number)}", octets))

    def keep(self, entry: Entry) -> None:
        """Return when the bucket's records list an item.

        Raises:
            PlaceError, OSError: they may list it or not; `forget` follows.
        """
        self._records.add([entry])
        self._or_fail(self._write_records)

    def forget(self, upload: Upload) -> None:
        """Let an upload end; what it has put is waste unless the records list it."""
        with self._lock:
            if upload not in self._uploads:
                return
            self._uploads.discard(upload)
        self._turn.release()

    def discard(self, item: str, pieces: int) -> None:
        """Throw away what was put of an item."""
        self._records.remove(item)
        self._throw_away(self._seal.piece_name(item, number) for number in range(pieces))

    # ---- Looking after the bucket

    def _write_records(self, *, anyhow: bool = False) -> None:
        void = self._records.write(self._now(), anyhow=anyhow)
        if void:
            self._throw_away(void)

    def _throw_away(self, names: Iterable[str]) -> None:
        with self._lock:
            self._waste.update(f"{self._state.folder}/{name}" for name in names)
        self._wake.set()

    def _or_fail(self, do: Callable[[], None]) -> None:
        if not self._is_well():
            raise PlaceError("the S3 store does not answer")
        try:
            do()
        except StoreError as error:
            self._set_fault(str(error))
            raise PlaceError(str(error)) from None

    def _set_fault(self, found: str) -> None:
        """Have no room until the thread has seen that the store is well again: nobody shall wait for it in vain."""
        if self._fault is None:
            self._fault = self._told(found, _REMEDY)
        self._wake.set()

    def _look_after(self) -> None:
        failures, written = 0, time.monotonic()
        while not self._stopped.is_set():
            try:
                due = time.monotonic() - written >= self._rhythm.heartbeat
                if not self._seen:
                    self._look_first()
                if due or self._fault or not self._seen or not self._records.complete:
                    self._write_records(anyhow=True)
                    written = time.monotonic()
                self._sweep()
            except (StoreError, OSError) as error:
                self._set_fault(str(error) if isinstance(error, StoreError) else f"the disk: {error.strerror}")
                self._stopped.wait(self._rhythm.pauses[min(failures, len(self._rhythm.pauses) - 1)])
                failures += 1
                continue
            failures, self._seen, self._fault = 0, True, None
            self._wake.wait(max(0.0, self._rhythm.heartbeat - (time.monotonic() - written)))
            self._stopped.wait(self._rhythm.soon)
            self._wake.clear()

    def _look_first(self) -> None:
        """See what is in the folder before anything is written or deleted there."""
        octets = self._objects.get(f"{self._state.folder}/{HEAD}", LARGEST_HEAD)
        try:
            head = self._seal.read_head(octets) if octets else None
        except BucketError as error:
            self._strange = self._told(f"found in the bucket: {error}", "see who else may write there")
            head = None
        if head and self._state.is_older_than(self._path, head.version):
            # What lies there and in no index may be all that there is of a message.
            entries = self._records.entries()
            self._state = self._state.another(self._path)
            self._use_folder(entries)
        # As long as the index has an item, it may lie there, whatever the store says.
        if self._state.left and not self._records.entries():
            emptied = {folder for folder in self._state.left if not any(self._objects.names(folder))}
            self._state = self._state.without(self._path, emptied)
        if self._state.left:
            self._strange = self._told(
                "the bucket holds mail in a folder that the relay has left: its disk was set back, or home has made "
                "another `bucket-seal`",
                "fetch it with `darkpipe relay recover-bucket`; a `bucket-seal` that home has lost has to be put back",
            )
        if not self._cleans:
            return
        known = list(self._objects.names(self._state.folder))
        with self._lock:
            coming = [self._seal.piece_name(*piece) for upload in self._uploads for piece in upload.pieces()]
        kept = {*self._records.names(), *coming}
        if waste := [name for name in known if NAME.fullmatch(name) and name not in kept]:
            self._throw_away(waste)

    def _told(self, found: str, remedy: str) -> Fault:
        return Fault(int(self._now() * 1000), found, remedy)

    def _sweep(self) -> None:
        with self._lock:
            waste = sorted(self._waste)
        failed: list[str] = []
        for name in waste:
            if self._stopped.is_set():
                return
            try:
                self._objects.delete([name])
            except StoreError as error:
                failed.append(str(error))
                if len(failed) >= _MOST_KEPT:
                    break
            else:
                with self._lock:
                    self._waste.discard(name)
        # It takes room there, and keeps no mail away: whoever may not delete can still put and get.
        if not failed:
            self._litter = None
        elif self._litter is None:
            self._litter = self._told(f"what is needed no more stays in the bucket: {failed[0]}", _MAY)


class Upload:
    """One item on its way."""

    def __init__(self, place: S3Place, name: str) -> None:
        self._place, self._name = place, name
        self._held = bytearray()
        self._pieces = 0
        self.size = 0

    def pieces(self) -> list[tuple[str, int]]:
        """Give the item and the number of each piece that it may have put."""
        return [(self._name, number) for number in range(self._pieces + 1)]

    def write(self, octets: bytes, /) -> None:
        """Take the next octets of the ciphertext.

        Raises:
            PlaceError: they are not taken; `abort` follows.
        """
        self._held += octets
        self.size += len(octets)
        while len(self._held) >= PIECE:
            self._put()

    def _put(self) -> None:
        with memoryview(self._held)[:PIECE] as held:
            piece = bytes(held)
        del self._held[:PIECE]
        self._pieces += 1
        self._place.put_piece(self._name, self._pieces - 1, piece)

    def finish(self, sha256: str, received: int) -> None:
        """Return when the item is in the bucket, and listed there.

        Raises:
            PlaceError: it may be there or not; `abort` follows.
        """
        if self._held or not self._pieces:
            self._put()
        self._place.keep(Entry(self._name, self.size, received, sha256))
        self._place.forget(self)

    def abort(self) -> None:
        """Throw away what was put; also after `finish`."""
        with suppress(OSError):
            self._place.discard(self._name, self._pieces)
        self._place.forget(self)
