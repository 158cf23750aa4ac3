"""What the queue looks after by itself, once a minute: mail that is too old, and alarms."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from traceback import format_tb

from model.control import QueueSettings
from relay import alarm
from relay.alarm import Alarm, Kind, Told
from relay.delivery import BY_DNS, Route, send
from relay.expiry import Expiry, Send
from relay.files import replace
from relay.presence import Presence, Sign
from relay.spool import MOST_ITEMS, Spool

SECONDS = 60.0
"""Between two looks."""

THERE = 600.0
"""Seconds since its last request for which home is there: what waits is its to take, however old it is."""

STEADY = 300.0
"""Seconds from one look to the next, beyond which the clock has jumped, or the machine was stopped and went on."""

NARROW = 0.8
"""Part of the budget behind which it is nearly used up."""

_FILE = "alarms.json"


WIDE = 0.6
"""Part of it below which there is room again, so that one message more or less makes no alarm."""


def used(spool: Spool, part: float = NARROW) -> str | None:
    """Say how much of the budget is used, in octets or in items, when that is more than a part; None when it is not."""
    count, octets = spool.usage()
    if octets > spool.budget * part:
        return f"what waits takes {octets * 100 // max(spool.budget, 1)} % of what it may"
    if count > MOST_ITEMS * part:
        return f"{count} messages wait, and no more than {MOST_ITEMS} may"
    return None


class Watch:
    """Looks at the queue.

    Args:
        folder: for what was told.
        now: seconds since 1970.
    """

    def __init__(
        self,
        spool: Spool,
        presence: Presence,
        expiry: Expiry,
        folder: Path,
        now: Callable[[], float],
        send_out: Send,
        post: alarm.Post = alarm.post_https,
    ) -> None:
        self._spool, self._presence, self._expiry = spool, presence, expiry
        self._file, self._now, self._send_out, self._post = folder / _FILE, now, send_out, post
        self._begun = self._steady = self._looked = now()
        self._told = Told.read(self._file.read_bytes()) if self._file.exists() else Told({})
        self._stopping = threading.Event()

    def look(self, settings: QueueSettings) -> None:
        """Look once."""
        # A machine that goes on from a copy of its memory believes what was true then: home may have all of it by now.
        if not 0 <= self._now() - self._looked <= STEADY:
            self._steady = self._now()
        # Alarms first: notices wait for servers of strangers.
        if settings.alarm:
            absent = self._absent()
            # A clock that was ahead when home was seen, and was set back, must not silence an alarm until then.
            self._alarm(settings, absent if absent > -STEADY else self._now() - self._steady)
        self._expiry.look(settings.expiry, settings.name, away=self._is_away)
        self._looked = self._now()

    def _is_away(self) -> bool:
        """Tell whether home had the time to come, and did not."""
        return min(self._absent(), self._now() - self._steady) > THERE

    def _absent(self) -> float:
        """Give the seconds since home was seen."""
        seen = self._presence.last(Sign.SEEN)
        return self._now() - (self._begun if seen is None else seen / 1000)

    def _alarm(self, settings: QueueSettings, absent: float) -> None:
        count, _ = self._spool.usage()
        away = f"home has been away for {int(absent // 3600)} hours, and {count} messages wait"
        full = used(self._spool, WIDE if Kind.BUDGET in self._told.times else NARROW)
        holds = {Kind.AWAY: away if absent > settings.away else None, Kind.BUDGET: full}
        for one in alarm.due(self._told, holds, self._now()):
            self._tell(one, settings)

    def _tell(self, one: Alarm, settings: QueueSettings) -> None:
        mailed = partial(self._mailed, name=settings.name)
        problems = alarm.tell(one, settings.alarm, settings.name, self._now(), self._post, mailed)
        for problem in problems:
            _log(f"an alarm did not reach anybody by {problem}")
        # It is tried again at the next look, until it has reached somebody.
        if len(problems) < len(settings.alarm):
            self._told = alarm.after(self._told, one, self._now())
            try:
                replace(self._file, self._told.to_json())
            except OSError as error:
                _log(f"that an alarm was told is forgotten at the next start: {error}")

    def _mailed(self, message: bytes, address: str, name: str) -> None:
        self._send_out(message, f"relay@{name}", address, name)

    def serve(self, settings: Callable[[], QueueSettings | None]) -> None:
        """Look until `stop`."""
        while not self._stopping.wait(SECONDS):
            if found := settings():
                try:
                    self.look(found)
                except Exception as error:  # a fault of one look is none of the next; its text may have an address
                    _log(
                        f"the watch has met a fault: {type(error).__name__}\n{''.join(format_tb(error.__traceback__))}"
                    )

    def stop(self) -> None:
        """End `serve`."""
        self._stopping.set()


def send_out(message: bytes, sender: str, recipient: str, name: str, route: Route = BY_DNS) -> None:
    """Send by the recipient's mail servers; an `expiry.Send`."""
    send(message, sender, recipient, name, route)


def _log(text: str) -> None:
    print(f"darkpipe-queue: {text}", file=sys.stderr, flush=True)
