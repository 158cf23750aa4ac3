"""Tells of devices that call with keys which this relay does not know; WireGuard itself drops what they send.

The firewall counts what has the form of a call and no answered connection before it (nftables.conf). Home calls once,
and is answered; whoever is not answered calls every five seconds.
"""

from __future__ import annotations

import json
from collections.abc import Callable

EVERY = 60.0
"""Seconds between two looks at the firewall's counter."""

MANY = 8
"""Calls in that time that are too many for a home whose address has changed, and fewer than a device makes."""

QUIET = 3600.0
"""Seconds until the same is said again."""

TEXT = (
    "a device calls this relay with WireGuard keys that it does not know, and is not answered: another home with the "
    "same user-data, or one with other or older user-data. If it is yours, `darkpipe pair` on it says what to do"
)

COMMAND = ("nft", "-j", "list", "counter", "inet", "darkpipe", "callers")


class Callers:
    """What the counter has shown.

    Args:
        count: reads it; None when the firewall has none, since it comes with older user-data.
    """

    def __init__(self, count: Callable[[], int | None]) -> None:
        self._count = count
        self._looked: float | None = None
        self._packets: int | None = None
        self._told: float | None = None

    def look(self, now: float) -> str:
        """Look, if it is time.

        Args:
            now: seconds of a clock that only runs forward.

        Returns:
            What to say; empty for nothing.
        """
        if self._looked is not None and now - self._looked < EVERY:
            return ""
        self._looked = now
        before, self._packets = self._packets, self._count()
        if before is None or self._packets is None:
            return ""
        # A firewall that was loaded anew counts from nought.
        more = self._packets - before if self._packets >= before else self._packets
        if more < MANY or (self._told is not None and now - self._told < QUIET):
            return ""
        self._told = now
        return TEXT


def packets(shown: str) -> int | None:
    """Read what `COMMAND` has printed (libnftables-json(5)); None for something else."""
    try:
        found = [entry["counter"]["packets"] for entry in json.loads(shown)["nftables"] if "counter" in entry]
    except (ValueError, KeyError, TypeError):
        return None
    return found[0] if len(found) == 1 and isinstance(found[0], int) else None
