"""Group commit: whoever waits for the same fsync(2) waits for one of them together."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

_T = TypeVar("_T")


class _Batch(Generic[_T]):
    def __init__(self) -> None:
        self.members: list[_T] = []
        self.done = False


class GroupCommit(Generic[_T]):
    """Does the work of several threads at once, as one of them does it for all that wait.

    Args:
        act: does it for some, in their order; it raises nothing, and tells each of them by itself how it went.
    """

    def __init__(self, act: Callable[[Sequence[_T]], None]) -> None:
        self._act = act
        self._changed = threading.Condition()
        self._next: _Batch[_T] = _Batch()
        self._busy = False

    def put(self, some: Sequence[_T]) -> None:
        """Return when it is done, or has failed, for each of these."""
        with self._changed:
            batch = self._next
            batch.members += some
            # Those who come while another batch is on its way become one batch; the first of them to wake does it.
            while self._busy and not batch.done:
                self._changed.wait()
            if batch.done:
                return
            self._busy, self._next = True, _Batch()
        try:
            self._act(batch.members)
        finally:
            with self._changed:
                self._busy, batch.done = False, True
                self._changed.notify_all()
