"""The relay's own records in a bucket: which items lie there, so that home finds them even when the relay has died.

Whoever writes tells the bucket of everybody's changes, so that those who waited have nothing more to do. A page is
never changed: another takes its place, and the head, written last, names it. So the bucket holds the old or the new
records whole, wherever the writing stops.
"""

from __future__ import annotations

import hashlib
import secrets
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from model.bucket import HEAD, PAGE, Entry, Head, PageName, Seal


class Puts(Protocol):
    """Takes objects."""

    def put(self, name: str, octets: bytes) -> None:
        """Return when the object is there.

        Raises:
            StoreError: it may be there or not.
        """
        ...


@dataclass(eq=False)
class _Page:
    """Some items; `object` is what the bucket has of them, None while it has something else."""

    entries: dict[str, Entry] = field(default_factory=dict)
    object: PageName | None = None


class Records:
    """The records of one folder.

    Args:
        objects: of the bucket.
        folder: its name.
        epoch: of the queue.
        version: the first that a head may have.
        note: is told each version before a head has it; raises OSError when that cannot be kept.
    """

    def __init__(
        self, objects: Puts, seal: Seal, folder: str, epoch: str, version: int, note: Callable[[int], None]
    ) -> None:
        self._objects, self._seal, self._folder, self._epoch = objects, seal, folder, epoch
        self._note = note
        self._next_version = version
        self._writing = threading.Lock()
        self._lock = threading.Lock()
        # Guarded by the lock:
        self._pages: list[_Page] = []
        self._page_of: dict[str, _Page] = {}
        self._void: list[str] = []
        self._octets = 0
        self._changes, self._told = 1, 0
        self._head: Head | None = None

    @property
    def octets(self) -> int:
        """What all items take."""
        with self._lock:
            return self._octets

    @property
    def version(self) -> int:
        """Of the latest head that the bucket has taken; 0 for none."""
        with self._lock:
            return self._head.version if self._head else 0

    @property
    def written(self) -> int:
        """When it was written, in milliseconds since 1970; 0 for never."""
        with self._lock:
            return self._head.written if self._head else 0

    @property
    def complete(self) -> bool:
        """Whether the bucket has heard of everything."""
        with self._lock:
            return self._changes == self._told

    def entries(self) -> list[Entry]:
        """Give all items, in the order of arrival."""
        with self._lock:
            return [entry for page in self._pages for entry in page.entries.values()]

    def names(self) -> Iterator[str]:
        """Give the names of all objects that belong to the items and their records, in the folder."""
        with self._lock:
            names = [HEAD, *self._void, *(page.object.name for page in self._pages if page.object)]
            entries = [entry for page in self._pages for entry in page.entries.values()]
        yield from names
        for entry in entries:
            yield from self._seal.piece_names(entry)

    def add(self, entries: Iterable[Entry]) -> None:
        """List more items, in the order of arrival; `write` tells the bucket."""
        with self._lock:
            for entry in entries:
                if not self._pages or len(self._pages[-1].entries) >= PAGE:
                    self._pages.append(_Page())
                page = self._pages[-1]
                self._outdate(page)
                page.entries[entry.id] = entry
                self._page_of[entry.id] = page
                self._octets += entry.size

    def remove(self, name: str) -> Entry | None:
        """List an item no longer, if it is listed; `write` tells the bucket."""
        with self._lock:
            page = self._page_of.pop(name, None)
            if page is None:
                return None
            self._outdate(page)
            entry = page.entries.pop(name)
            self._octets -= entry.size
            if not page.entries:
                self._pages.remove(page)
            if len(self._pages) > 8 + 2 * (len(self._page_of) // PAGE):
                self._fill_pages()
            return entry

    def _outdate(self, page: _Page) -> None:
        self._changes += 1
        if page.object:
            self._void.append(page.object.name)
            page.object = None

    def _fill_pages(self) -> None:
        """Put what is left into full pages, so that the head stays small."""
        for page in self._pages:
            self._outdate(page)
        entries = [entry for page in self._pages for entry in page.entries.values()]
        several = [entries[start : start + PAGE] for start in range(0, len(entries), PAGE)]
        self._pages = [_Page({entry.id: entry for entry in some}) for some in several]
        self._page_of = {name: page for page in self._pages for name in page.entries}

    def write(self, now: float, *, anyhow: bool = False) -> list[str]:
        """Return when the bucket has heard of all changes made before.

        Args:
            now: seconds since 1970.
            anyhow: write a head even when nothing has changed.

        Returns:
            Names of objects that count no longer.

        Raises:
            StoreError, OSError: it may have heard of them or not.
        """
        with self._lock:
            wanted = self._changes
        with self._writing:
            if self._told >= wanted and not anyhow:
                return []  # whoever had its turn has written ours, too
            return self._write(now)

    def _write(self, now: float) -> list[str]:
        with self._lock:
            wanted, void = self._changes, set(self._void)
            pages = [(page, tuple(page.entries.values()), page.object) for page in self._pages]
            octets, version = self._octets, self._next_version
            self._next_version += 1
        named: list[PageName] = []
        for _, entries, known in pages:
            named.append(known or self._put_page(entries))
        count = sum(len(entries) for _, entries, _ in pages)
        head = Head(self._epoch, version, int(now * 1000), count, octets, tuple(named))
        self._note(version)
        self._objects.put(f"{self._folder}/{HEAD}", self._seal.head(head))
        with self._lock:
            self._told, self._head = wanted, head
            # What is in this head counts until there is another, even if it is out of date by now.
            for (page, entries, known), name in zip(pages, named, strict=True):
                if known is None and page in self._pages and tuple(page.entries.values()) == entries:
                    page.object = name
                    self._void.remove(name.name)
            self._void = [name for name in self._void if name not in void]
        return sorted(void)

    def _put_page(self, entries: tuple[Entry, ...]) -> PageName:
        octets = self._seal.page(entries)
        name = PageName(secrets.token_hex(16), hashlib.sha256(octets).hexdigest())
        with self._lock:
            self._void.append(name.name)
        self._objects.put(f"{self._folder}/{name.name}", octets)
        return name
