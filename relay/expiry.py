"""Mail that home has not taken in time: its sender is told, and only then is it removed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass

from model.control import QueuedItem
from relay.delivery import LaterError, NeverError
from relay.facts import Facts, FactsFolder
from relay.notice import notice
from relay.place import PlaceError
from relay.spool import Spool, SpoolError

FIRST_PAUSE, LONGEST_PAUSE = 900.0, 4 * 3600.0
"""Seconds until a notice is tried again: at first, and at last."""

PATIENCE = 5 * 24 * 3600.0
"""Seconds after which a notice that nobody takes is given up; its message stays."""

AT_ONCE = 20
"""Notices of one round, so that those to slow servers do not keep the rest of the service."""

Send = Callable[[bytes, str, str, str], None]
"""Sends a message: its octets, sender, recipient, and this relay's name; raises LaterError or NeverError."""


@dataclass(frozen=True)
class _Trial:
    """A notice that was not taken.

    Args:
        first, again: time of the first trial and of the next, seconds since 1970.
        pause: seconds between the last and the next.
    """

    first: float
    again: float
    pause: float


class Expiry:
    """Looks through the items from time to time.

    Args:
        send: a notice.
        now: seconds since 1970.
    """

    def __init__(self, spool: Spool, facts: FactsFolder, send: Send, now: Callable[[], float]) -> None:
        self._spool, self._facts, self._send, self._now = spool, facts, send, now
        self._trials: dict[str, _Trial] = {}
        self._given_up: set[str] = set()
        self.overdue = 0
        """Items that are kept beyond their time, since no notice may or can be sent for them."""

    def look(self, seconds: float, name: str, *, away: Callable[[], bool]) -> None:
        """Tell the senders of what is too old.

        Args:
            away: whether home is, asked before each notice; else what waits is its to take, and is counted only.
            seconds: that an item waits.
            name: of the relay.
        """
        # Before the items: what comes between the two would lose its facts.
        noted = self._facts.all()
        items = self._spool.items()
        there = frozenset(item.id for item in items)
        for one in noted - there:
            self._facts.forget(one)
        self._given_up &= there
        self._trials = {one: trial for one, trial in self._trials.items() if one in there}
        sent = overdue = 0
        # Those first that were not tried yet: else some that no server takes would have every turn there is.
        for item in sorted(items, key=lambda one: one.id in self._trials):
            if item.received / 1000 + seconds > self._now():
                continue
            facts = None if item.id in self._given_up else self._facts.read(item.id)
            if facts is None:
                overdue += 1
            elif sent < AT_ONCE and self._is_due(item) and away():
                sent += 1
                overdue += not self._tell(item, facts, name)
        self.overdue = overdue

    def _is_due(self, item: QueuedItem) -> bool:
        trial = self._trials.get(item.id)
        return trial is None or trial.again <= self._now()

    def _tell(self, item: QueuedItem, facts: Facts, name: str) -> bool:
        """Send a notice; tells whether it was taken, or may be later."""
        try:
            self._send(notice(facts, name, self._now()), "", facts.sender, name)
        except LaterError:
            return self._try_again(item)
        except NeverError as error:
            print(f"darkpipe-queue: a notice about item {item.id}: {error}", file=sys.stderr, flush=True)
            self._given_up.add(item.id)
            return False
        try:
            self._spool.remove(item.id)
        except KeyError:  # home has taken it meanwhile
            pass
        except (SpoolError, PlaceError) as error:
            # Its sender knows; a second notice would tell nothing new.
            print(f"darkpipe-queue: item {item.id} stays: {error}", file=sys.stderr, flush=True)
            self._given_up.add(item.id)
        self._facts.forget(item.id)
        return True

    def _try_again(self, item: QueuedItem) -> bool:
        now, before = self._now(), self._trials.get(item.id)
        pause = min(before.pause * 2, LONGEST_PAUSE) if before else FIRST_PAUSE
        first = before.first if before else now
        if now - first > PATIENCE:
            self._given_up.add(item.id)
            return False
        self._trials[item.id] = _Trial(first, now + pause, pause)
        return True
