"""What a relay that has died has left in its bucket: home reads it there by itself, and believes nothing unsealed.

The relay's records say which items there must be. What they list and the bucket does not have is missing for sure. An
older state of the whole bucket is told by the version of the head, as far as home has seen a later one, and else by the
time at which the relay has written it: every ten minutes as long as it was well.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from model.bucket import HEAD, LARGEST_HEAD, LARGEST_PAGE, NAME, BucketError, Entry, Head, PageName, Seal
from model.control import QueuedItem
from model.s3_objects import Objects


class Writes(Protocol):
    """Takes octets."""

    def write(self, octets: bytes, /) -> int:
        """Take all of them."""
        ...


class MissingError(Exception):
    """The bucket does not have an item that it must have, or has other octets."""


@dataclass(frozen=True)
class Leftover:
    """What a folder of the bucket holds.

    Args:
        items: in the order of arrival; `sequence` counts them.
        problems: what is missing or wrong besides, in sentences for a person.
    """

    folder: str
    head: Head
    items: tuple[QueuedItem, ...]
    problems: tuple[str, ...] = ()


class Bucket:
    """The bucket, seen from home.

    Args:
        secret: that home and relay share (`S3Settings.seal`).
        seen: the latest version of each folder's head that the relay has told of.
    """

    def __init__(self, objects: Objects, secret: str, seen: Mapping[str, int]) -> None:
        self._objects, self._secret, self._seen = objects, secret, seen

    def leftovers(self, besides: Iterable[str] = ()) -> tuple[list[Leftover], list[str]]:
        """Find all folders that a relay of ours has written to.

        Args:
            besides: folders that are left out, since a relay is still at work there.

        Returns:
            What they hold, and what is wrong with the bucket as a whole.

        Raises:
            StoreError: the store fails.
        """
        named = [name for name in self._objects.folders() if NAME.fullmatch(name)]
        found, problems = [], []
        for folder in sorted({*named, *self._seen} - set(besides)):
            try:
                leftover = self._read(folder)
            except BucketError as error:
                # Others may use the bucket, too; what the relay has told of is ours for sure.
                if folder in self._seen:
                    problems.append(f"folder {folder}: {error}")
            else:
                found.append(leftover)
        return found, problems

    def nowhere(self, besides: Iterable[str] = ()) -> list[str]:
        """Find the folders that the relay has told of, and of which there is nothing any more.

        Args:
            besides: as in `leftovers`.

        Raises:
            StoreError: the store fails.
        """
        told = sorted(set(self._seen) - set(besides))
        return [folder for folder in told if next(self._objects.names(folder), None) is None]

    def _read_head(self, folder: str) -> Head:
        octets = self._objects.get(f"{folder}/{HEAD}", LARGEST_HEAD)
        if octets is None:
            raise BucketError("its head is gone, and with it the list of what lies there")
        return Seal(self._secret, folder).read_head(octets)

    def _read(self, folder: str) -> Leftover:
        seal, head = Seal(self._secret, folder), self._read_head(folder)
        problems: list[str] = []
        entries: list[Entry] = []
        seen = self._seen.get(folder, 0)
        if head.version < seen:
            problems.append(
                f"the bucket holds an older state (version {head.version}) than the relay has told of ({seen}): "
                "what came in between is hidden or lost"
            )
        for page in head.pages:
            try:
                entries += self._read_page(seal, folder, page)
            except BucketError as error:
                problems.append(str(error))
        missing = head.count - len(entries)
        if missing:
            problems.append(f"{missing} of {head.count} messages are in no list any more")
        return Leftover(folder, head, _items(entries), tuple(problems))

    def _read_page(self, seal: Seal, folder: str, page: PageName) -> tuple[Entry, ...]:
        octets = self._objects.get(f"{folder}/{page.name}", LARGEST_PAGE)
        if octets is None:
            raise BucketError("a list of items is gone")
        return seal.read_page(octets, page.sha256)

    def download(self, folder: str, item: QueuedItem, into: Writes) -> None:
        """Fetch an item's ciphertext into a file.

        Raises:
            MissingError: the bucket does not have it as it was; the file has a part of it, or other octets.
            StoreError: the store fails.
            OSError: the file cannot be written.
        """
        entry, digest = _entry(item), hashlib.sha256()
        for number, name in enumerate(Seal(self._secret, folder).piece_names(entry)):
            size = entry.piece_size(number)
            piece = self._objects.get(f"{folder}/{name}", size)
            if piece is None or len(piece) != size:
                raise MissingError(f"the bucket does not have item {item.id} any more, or not all of it")
            digest.update(piece)
            into.write(piece)
        if digest.hexdigest() != item.sha256:
            raise MissingError(f"the bucket has other octets in the place of item {item.id}")

    def remove(self, folder: str, items: Iterable[QueuedItem]) -> None:
        """Delete what was fetched of some items; that it is gone already is fine.

        Raises:
            StoreError: the store fails; some may be gone.
        """
        seal = Seal(self._secret, folder)
        for item in items:
            self._objects.delete(f"{folder}/{name}" for name in seal.piece_names(_entry(item)))

    def left_of(self, folder: str, items: Iterable[QueuedItem]) -> list[QueuedItem]:
        """Give those of some items of which there is anything at all.

        Raises:
            StoreError: the store fails.
        """
        seal, there = Seal(self._secret, folder), set(self._objects.names(folder))
        return [item for item in items if not there.isdisjoint(seal.piece_names(_entry(item)))]

    def close(self, leftover: Leftover, about_to_empty: Callable[[str], object] = lambda _: None) -> None:
        """Delete all that a relay may have put into a folder of which nothing is needed any more: the head last.

        Args:
            about_to_empty: is told the folder's name, unless it stays.

        Raises:
            BucketError: its head is another one by now: a relay lives that takes mail there. Nothing was deleted.
            StoreError: the store fails.
        """
        folder = leftover.folder
        ours = [name for name in self._objects.names(folder) if NAME.fullmatch(name)]
        if self._read_head(folder) != leftover.head:
            raise BucketError("a relay has written there meanwhile: it is not gone, and what lies there is left to it")
        about_to_empty(folder)
        self._objects.delete(f"{folder}/{name}" for name in (*ours, HEAD))


def _items(entries: Iterable[Entry]) -> tuple[QueuedItem, ...]:
    return tuple(
        QueuedItem(entry.id, number, entry.size, entry.received, entry.sha256)
        for number, entry in enumerate(entries, start=1)
    )


def _entry(item: QueuedItem) -> Entry:
    return Entry(item.id, item.size, item.received, item.sha256)
