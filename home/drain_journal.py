"""The drain's journal: what is known of every item of the relay's queue, durable before anything rests on it.

A row of an item stays for a year after home has it, so that a repeat is recognised: a relay can be restored from an old
copy of its disk, and lists then what it had handed over.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from home.drain import Entry, Fate, Person
from model.control import QueuedItem

NAME = "journal.db"

_FORMAT = 1

_KEPT = 365 * 24 * 3600 * 1000
"""Milliseconds after which the row of an item goes that home has."""

_TABLES = """
CREATE TABLE epochs (epoch TEXT PRIMARY KEY, highest INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE items (
    epoch TEXT NOT NULL, id TEXT NOT NULL, sequence INTEGER NOT NULL, size INTEGER NOT NULL, received INTEGER NOT NULL,
    sha256 TEXT NOT NULL, aside INTEGER NOT NULL, attempt INTEGER NOT NULL, port INTEGER NOT NULL,
    deleted INTEGER NOT NULL, gone INTEGER NOT NULL, PRIMARY KEY (epoch, id)
) STRICT, WITHOUT ROWID;
CREATE INDEX open_items ON items (epoch) WHERE NOT deleted AND NOT gone;
CREATE TABLE people (
    epoch TEXT NOT NULL, id TEXT NOT NULL, number INTEGER NOT NULL, address TEXT NOT NULL, fate TEXT NOT NULL,
    reply TEXT NOT NULL, PRIMARY KEY (epoch, id, number),
    FOREIGN KEY (epoch, id) REFERENCES items (epoch, id) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;
"""


_NOTE = """
INSERT INTO items VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET aside = excluded.aside,
    attempt = excluded.attempt, port = excluded.port, deleted = excluded.deleted, gone = excluded.gone
"""


class JournalError(Exception):
    """The journal cannot be used; the text says what was found."""


@contextmanager
def only_drain(folder: Path) -> Iterator[None]:
    """Keep other drains away for the block: two would hand over the same messages. One that dies keeps none away.

    Args:
        folder: the journal's.

    Raises:
        JournalError: another one is at work.
        OSError: nobody can tell.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise JournalError(
                "mail is fetched already, by darkpipe-drain or `darkpipe relay recover-bucket`"
            ) from None
        yield
    finally:
        os.close(descriptor)


class Journal:
    """The journal in a folder, made when there is none.

    Args:
        folder: on the data disk.

    Raises:
        JournalError: it is of a newer format, or damaged; or the disk fails.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / NAME
        with self._told():
            self._base = sqlite3.connect(self._path, isolation_level=None, timeout=10.0)
            # One fsync(2) for each transaction, before it counts (https://sqlite.org/wal.html, "Performance").
            self._base.execute("PRAGMA journal_mode = WAL")
            self._base.execute("PRAGMA synchronous = FULL")
            self._base.execute("PRAGMA foreign_keys = ON")
            found = int(self._base.execute("PRAGMA user_version").fetchone()[0])
            if found == 0:
                self._base.executescript(f"BEGIN IMMEDIATE;{_TABLES}PRAGMA user_version = {_FORMAT};COMMIT;")
            elif found != _FORMAT:
                raise JournalError(f"{self._path} has format {found}, expected {_FORMAT}: it is of another version")

    def close(self) -> None:
        """Close it."""
        self._base.close()

    def highest(self, epoch: str) -> int:
        """Give the highest sequence number that the relay has listed in an epoch; 0 for none."""
        with self._told():
            row = self._base.execute("SELECT highest FROM epochs WHERE epoch = ?", (epoch,)).fetchone()
        return int(row[0]) if row else 0

    def note_highest(self, epoch: str, highest: int) -> None:
        """Write down the highest sequence number."""
        statement = (
            "INSERT INTO epochs VALUES (?, ?) ON CONFLICT DO UPDATE SET highest = max(highest, excluded.highest)"
        )
        with self._told():
            self._base.execute(statement, (epoch, highest))

    def find(self, epoch: str, items: Iterable[str]) -> Mapping[str, Entry]:
        """Give what is known of some items, by their ids."""
        found = {}
        with self._told():
            for item in items:
                query = "SELECT * FROM items WHERE epoch = ? AND id = ?"
                for row in self._base.execute(query, (epoch, item)):
                    found[item] = self._entry(row)
        return found

    def open_entries(self) -> list[Entry]:
        """Give the items that the relay still has for home, of all epochs, in the order of their numbers."""
        query = "SELECT * FROM items WHERE NOT deleted AND NOT gone ORDER BY epoch, sequence"
        with self._told():
            return [self._entry(row) for row in self._base.execute(query).fetchall()]

    def note(self, entry: Entry, *, soon: bool = False) -> None:
        """Write down what is known of an item; on return it is durable.

        Args:
            soon: whether it will do when it is durable with the next one.
        """
        one = entry.item
        row = (entry.epoch, one.id, one.sequence, one.size, one.received, one.sha256)
        marks = (entry.aside, entry.attempt, entry.port, entry.deleted, entry.gone)
        people = [
            (entry.epoch, one.id, number, person.address, person.fate, person.reply)
            for number, person in enumerate(entry.people)
        ]
        with self._told(), self._transaction(soon=soon):
            self._base.execute(_NOTE, (*row, *map(int, marks)))
            self._base.executemany("INSERT OR REPLACE INTO people VALUES (?, ?, ?, ?, ?, ?)", people)

    def prune(self, now: int) -> None:
        """Forget items that home has had for a year.

        Args:
            now: milliseconds since 1970.
        """
        with self._told():
            self._base.execute("DELETE FROM items WHERE deleted AND received < ?", (now - _KEPT,))

    def _entry(self, row: tuple[str, str, int, int, int, str, int, int, int, int, int]) -> Entry:
        epoch, item, sequence, size, received, sha256, aside, attempt, port, deleted, gone = row
        query = "SELECT address, fate, reply FROM people WHERE epoch = ? AND id = ? ORDER BY number"
        people = tuple(
            Person(address, Fate(fate), reply) for address, fate, reply in self._base.execute(query, (epoch, item))
        )
        queued = QueuedItem(item, sequence, size, received, sha256)
        return Entry(epoch, queued, people, bool(aside), attempt, port, bool(deleted), bool(gone))

    @contextmanager
    def _transaction(self, *, soon: bool) -> Iterator[None]:
        self._base.execute(f"PRAGMA synchronous = {'NORMAL' if soon else 'FULL'}")
        self._base.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._base.execute("ROLLBACK")
            raise
        self._base.execute("COMMIT")

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Turn what sqlite raises into words."""
        try:
            yield
        except (sqlite3.Error, ValueError) as error:
            raise JournalError(f"{self._path} cannot be used: {error}") from None
