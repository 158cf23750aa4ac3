"""What is wrong, each once for as long as it lasts."""

from __future__ import annotations

import threading
from collections.abc import Callable

from model.control import Fault


class Faults:
    """Remembers faults by their names, and when each began.

    Args:
        now: seconds since 1970.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._known: dict[str, Fault] = {}

    def note(self, name: str, found: str, remedy: str) -> bool:
        """Note a fault; tells whether it is new."""
        with self._lock:
            known = self._known.get(name)
            since = known.since if known else int(self._now() * 1000)
            self._known[name] = Fault(since, found, remedy)
            return known is None

    def clear(self, name: str) -> bool:
        """Note that something is not wrong any more; tells whether it was."""
        with self._lock:
            return self._known.pop(name, None) is not None

    def all(self) -> tuple[Fault, ...]:
        """Give all that last, the oldest first."""
        with self._lock:
            return tuple(sorted(self._known.values(), key=lambda fault: fault.since))
