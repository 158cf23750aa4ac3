"""Room in the store that is kept for a message which is on its way."""

from __future__ import annotations

from collections.abc import Callable

OVERHEAD = 64 * 1024
"""Octets that an item may take besides its message: the envelope, and what age and the file system add."""


class SpoolFullError(Exception):
    """There is no room for a message; later there may be."""


class Room:
    """Room that is kept for one message.

    Args:
        promise: gets more of it.
        away: whether it is in the place besides the disk.
    """

    def __init__(self, promise: Callable[[int], None], *, away: bool = False) -> None:
        self._promise = promise
        self.octets = 0
        self.away = away

    def grow_to(self, octets: int) -> None:
        """Keep room for a message of so many octets.

        Raises:
            SpoolFullError: there is not so much left; what was kept stays so.
        """
        more = octets + OVERHEAD - self.octets
        if more > 0:
            self._promise(more)
            self.octets += more
