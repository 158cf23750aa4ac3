"""The bucket of a relay that has died, as the drain sees a queue: what lies there is handed over as ever."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import BinaryIO

from home.bucket import Bucket, Leftover, MissingError
from home.control_errors import Unreachable
from home.drain import MOST_REFUSED
from home.drain_journal import Journal
from home.drain_run import Drain
from home.hand_over import NobodyTakesError
from home.relay_queue import GoneError, NotNowError, RelayQueue, Summed
from model.bucket import BucketError
from model.control import PROTOCOL, Page, QueuedItem, QueueStatus
from model.s3_objects import StoreError

_ROUNDS = 3
"""Times that a folder is gone through, as long as something comes of it."""


_FAILURES = 6
"""Of the store, one after the other; then it is not about what it was asked for."""


class BucketQueue:
    """A `RelayQueue` of one folder of a bucket.

    Args:
        items: of the folder, numbered as the journal knows them.
    """

    def __init__(self, bucket: Bucket, leftover: Leftover, items: Iterable[QueuedItem]) -> None:
        self._bucket, self._leftover = bucket, leftover
        self._items = {item.id: item for item in items}
        self.missing: dict[str, QueuedItem] = {}
        """Items that the bucket must have, and has not given when it was asked last; by their ids."""
        self._failures = 0

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
            NotNowError: the store fails.
            ControlFailure: it does so again and again.
        """
        summed = Summed(into)
        try:
            self._bucket.download(self._leftover.folder, item, summed)
        except MissingError as error:
            self.missing[item.id] = item
            raise GoneError(str(error)) from None
        except StoreError as error:
            self._failures += 1
            raise (Unreachable if self._failures >= _FAILURES else NotNowError)(str(error)) from None
        self._failures = 0
        self.missing.pop(item.id, None)
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
    bucket: Bucket,
    leftover: Leftover,
    journal: Journal,
    make_drain: Callable[[RelayQueue], Drain],
    about_to_empty: Callable[[str], object] = lambda _: None,
) -> Recovered:
    """Hand over what lies in a folder; when home has all of it, or nobody has it any more, the folder is emptied.

    Where something is left of a message that the bucket does not give, it stays: a store that has failed for a moment
    may give it later.

    Args:
        make_drain: makes a drain of a queue.
        about_to_empty: is told the folder's name before it is emptied.

    Raises:
        ControlFailure: the store fails.
        NobodyTakesError, LostError, JournalError, OSError: see `Drain.round`; another try goes on from there.
    """
    queue = BucketQueue(bucket, leftover, numbered(leftover, journal))
    drain = make_drain(queue)
    for _ in range(_ROUNDS):
        before = queue.waiting
        _try_each(drain)
        if queue.waiting in {0, before}:
            break
    missing, problems = len(queue.missing), leftover.problems
    left = queue.waiting - missing
    try:
        if rest := bucket.left_of(leftover.folder, queue.missing.values()):
            problems += (f"something is left of {len(rest)} of the messages that are missing, and stays in the bucket",)
        if not left and not problems:
            bucket.close(leftover, about_to_empty)
    except BucketError as error:
        problems += (str(error),)
    except StoreError as error:
        raise Unreachable(str(error)) from None
    had = len(leftover.items) - queue.waiting
    return Recovered(leftover.folder, leftover.head.written, had, missing, left, problems)


def _try_each(drain: Drain) -> None:
    """Let a drain try each item once, also those behind a row of such as are put off, at which a service pauses."""
    while True:
        tried = len(drain.patience.tries)
        try:
            drain.round()
        except NobodyTakesError:
            if drain.patience.row < MOST_REFUSED:
                raise
            drain.pause()
            if len(drain.patience.tries) > tried:
                continue
        return
