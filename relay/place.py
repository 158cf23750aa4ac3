"""Places for sealed items besides the relay's disk, such as a bucket of S3.

The store (relay/spool.py) keeps the index of all items on the disk; a place holds octets under an item's id, and that
they are the right ones is checked against the index. A place is asked by several threads at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from model.control import BucketStatus, Fault, QueuedItem


class PlaceError(Exception):
    """A place does not answer in time, refuses, or gives something else than it was given; the text says which.

    A sender then hears 452 and comes again.
    """


class LostError(PlaceError):
    """A place says that it does not have an item, or gives other octets than it was given: it lies, or has lost it."""


class Upload(Protocol):
    """One item on its way into a place. Nobody is told of it before `finish` has returned."""

    def write(self, octets: bytes, /) -> None:
        """Take the next octets of the ciphertext, at most 64 KiB and a little.

        Raises:
            PlaceError: they are not taken; `abort` follows.
        """
        ...

    def finish(self, sha256: str, received: int) -> None:
        """Return when the item is there to stay. The store calls it before it makes its own entry of the item.

        Args:
            sha256: of all that was written, in hexadecimal digits.
            received: when the message came, in milliseconds since 1970.

        Raises:
            PlaceError: it is not; `abort` follows.
        """
        ...

    def abort(self) -> None:
        """Forget what was written, as far as that can be done now; raises nothing."""
        ...


class Place(Protocol):
    """Holds items for the store."""

    every: bool
    """Whether it gets every item, besides the disk (write-through), or those only that the disk has no room for."""

    def has_room(self, octets: int) -> bool:
        """Tell whether an item of so many octets may be begun; asked at MAIL, so that it goes through no network."""
        ...

    def begin(self, name: str) -> Upload:
        """Begin to write an item.

        Args:
            name: its id: 32 hexadecimal digits, at random.

        Raises:
            PlaceError: the place does not answer.
        """
        ...

    def open(self, item: QueuedItem) -> Iterator[bytes]:
        """Give the octets of an item, piece by piece.

        Raises:
            PlaceError: at once or while they are read: they are not what was written.
        """
        ...

    def remove(self, item: QueuedItem) -> None:
        """Return when there is no such item any more; also when there was none.

        Raises:
            PlaceError: it is still there, or may be.
        """
        ...

    def start(self, items: Sequence[QueuedItem]) -> None:
        """Take what the index says to lie here, in the order of arrival; called once, goes through no network.

        From now on a thread of the place's own removes what a crash has left there and in no index. Until the place has
        answered for the first time it has no room.
        """
        ...

    def stop(self) -> None:
        """End that thread; returns soon."""
        ...

    def faults(self) -> tuple[Fault, ...]:
        """Give what home should know of the place."""
        ...

    def status(self) -> BucketStatus | None:
        """Give what home should remember of the place; None for nothing."""
        ...
