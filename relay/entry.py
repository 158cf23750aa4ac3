"""The index of the store: each item's file name says what home may know of it, and nothing else.

A folder of such names is an index that no crash can separate from what it tells of: an item gets its name by one
rename(2), and is gone with it.
"""

from __future__ import annotations

import re
from bisect import bisect_left, insort
from dataclasses import dataclass
from typing import Self

from model.control import QueuedItem

_NAME = re.compile(
    r"(?P<sequence>[0-9]{12})-(?P<received>[0-9]{1,15})-(?P<size>[0-9]{1,15})"
    r"-(?P<id>[0-9a-f]{32})-(?P<sha256>[0-9a-f]{64})(?P<away>\.away)?",
    re.ASCII,
)
IDENTIFIER = re.compile(r"[0-9a-f]{32}", re.ASCII)
"""An item's id."""

HIGHEST = 10**12 - 1
"""Sequence number that a name has room for."""


@dataclass(frozen=True)
class Entry:
    """An item, and where its octets lie.

    Args:
        away: whether they are in a place besides the disk, and the file of this name is empty.
    """

    item: QueuedItem
    away: bool = False

    @property
    def name(self) -> str:
        """Of the file."""
        one = self.item
        text = f"{one.sequence:012d}-{one.received}-{one.size}-{one.id}-{one.sha256}"
        return f"{text}.away" if self.away else text

    @classmethod
    def parse(cls, name: str) -> Self | None:
        """Read a file's name; None when it is another file's."""
        match = _NAME.fullmatch(name)
        if not match:
            return None
        sequence, received, size = (int(match[part]) for part in ("sequence", "received", "size"))
        item = QueuedItem(match["id"], sequence, size, received, match["sha256"])
        return cls(item, match["away"] is not None)


class Index:
    """All entries, in the order of their sequence numbers; held as names, since they are the shortest form."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._by_id: dict[str, str] = {}
        self.octets = 0
        """Of all items on the disk."""

    def __len__(self) -> int:
        return len(self._names)

    def add(self, entry: Entry) -> None:
        """Take one more."""
        name = entry.name
        insort(self._names, name)
        self._by_id[entry.item.id] = name
        self.octets += 0 if entry.away else entry.item.size

    def remove(self, entry: Entry) -> None:
        """Forget one; nothing happens when it is not there."""
        if self._by_id.pop(entry.item.id, None):
            del self._names[bisect_left(self._names, entry.name)]
            self.octets -= 0 if entry.away else entry.item.size

    def find(self, name: str) -> Entry:
        """Give an entry by its item's id.

        Raises:
            KeyError: there is none.
        """
        return _read(self._by_id[name])

    def after(self, sequence: int, most: int | None = None) -> list[Entry]:
        """Give entries behind a sequence number, in order, and so many at most."""
        begin = bisect_left(self._names, f"{min(sequence, HIGHEST) + 1:012d}") if sequence >= 0 else 0
        end = None if most is None else begin + most
        return [_read(name) for name in self._names[begin:end]]

    @property
    def highest(self) -> int:
        """Sequence number of the last entry; 0 when there is none."""
        return _read(self._names[-1]).item.sequence if self._names else 0


def _read(name: str) -> Entry:
    entry = Entry.parse(name)
    assert entry is not None, "only names of entries are held"
    return entry
