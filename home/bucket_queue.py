"""The bucket of a relay that has died, as the drain sees a queue: what lies there is handed over as ever."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import BinaryIO

from home.bucket import Bucket, Leftover, MissingError
from home.control_errors import Unreachable
from home.drain_journal import Journal
from home.drain_run import Drain
from home.relay_queue import GoneError, RelayQueue, Summed
from model.control import PROTOCOL, Page, QueuedItem, QueueStatus
from model.s3_objects import StoreError

_ROUNDS = 3
"""Times that a folder is gone through, as long as something comes of it."""


class BucketQueue:
    """A `RelayQueue` of one folder of a bucket.

    Args:
        items: of the folder, numbered as the journal knows them.
    """

    def __init__(self, bucket: Bucket, leftover: Leftover, items: Iterable[QueuedItem]) -> None:
        self._bucket, self._leftover = bucket, leftover
        self._items = {item.id: item for item in items}
        self.missing: set[str] = set()
        """Items that the bucket must have, and has not."""

    @property
    def waiting(self) -> int:
        """How many items nobody has asked to forget yet."""
        return len(self._items)

    def page(self, after: int) -> Page:
        """Give the items behind a sequence number."""
        return Page(
            self._leftover.head.epoch, tuple(item for item in self._items.values() if item.sequence > after), more=False
        )

    def fetch(self, item: QueuedItem, into: BinaryIO) -> str:
        """Fetch an item's ciphertext and give its sha256.

        Raises:
            GoneError: it is missing.
            ControlFailure: the store fails.
        """
        summed = Summed(into)
        try:
            self._bucket.download(self._leftover.folder, item, summed)
        except MissingError as error:
            self.missing.add(item.id)
            raise GoneError(str(error)) from None
        except StoreError as error:
            raise Unreachable(str(error)) from None
        return summed.digest.hexdigest()

    def delete(self, item: str) -> None:
        """Delete an item.

        Raises:
            ControlFailure: the store fails.
        """
        try:
            self._bucket.remove(self._leftover.folder, [self._items[item]] if item in self._items else [])
        except StoreError as error:
            raise Unreachable(str(error)) from None
        self._items.pop(item, None)

    def status(self) -> QueueStatus:
        """Tell what lies there."""
        octets = sum(item.size for item in self._items.values())
        oldest = min((item.received for item in self._items.values()), default=None)
        epoch = self._leftover.head.epoch
        return QueueStatus(PROTOCOL, "", epoch, len(self._items), octets, oldest, octets, None, 0, 0)


@dataclass(frozen=True)
class Recovered:
    """What became of a folder.

    Args:
        had: items that home has, by now or from before.
        missing: items that the bucket must have, and has not.
        left: items that home's mail server does not take now; another try goes on with them.
        problems: see `Leftover`.
    """

    folder: str
    written: int
    had: int
    missing: int
    left: int
    problems: tuple[str, ...]


def numbered(leftover: Leftover, journal: Journal) -> list[QueuedItem]:
    """Give the items as the journal knows them; those that it does not know come behind all that it does."""
    epoch = leftover.head.epoch
    known = journal.find(epoch, (item.id for item in leftover.items))
    highest = journal.highest(epoch)
    before = [known[item.id].item for item in leftover.items if item.id in known]
    fresh = [item for item in leftover.items if item.id not in known]
    counted = [replace(item, sequence=number) for number, item in enumerate(fresh, start=highest + 1)]
    return sorted([*before, *counted], key=lambda item: item.sequence)


def recover(
    bucket: Bucket, leftover: Leftover, journal: Journal, make_drain: Callable[[RelayQueue], Drain]
) -> Recovered:
    """Hand over what lies in a folder; when home has all of it, or nobody has it any more, the folder is emptied.

    Args:
        make_drain: makes a drain of a queue.

    Raises:
        ControlFailure: the store fails.
        NobodyTakesError, LostError, JournalError, OSError: see `Drain.round`; another try goes on from there.
    """
    queue = BucketQueue(bucket, leftover, numbered(leftover, journal))
    drain = make_drain(queue)
    for _ in range(_ROUNDS):
        before = queue.waiting
        drain.round()
        if queue.waiting in {0, before}:
            break
    left = queue.waiting - len(queue.missing)
    if not left and not leftover.problems:
        try:
            bucket.close(leftover.folder)
        except StoreError as error:
            raise Unreachable(str(error)) from None
    missing = len(queue.missing)
    had = len(leftover.items) - queue.waiting
    return Recovered(leftover.folder, leftover.head.written, had, missing, left, leftover.problems)
