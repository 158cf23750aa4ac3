"""What a dead relay has left in its bucket comes into the mailbox, once, and what is missing is told."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import obstore
import pyrage
import pytest

from home.bucket import Bucket as HomeBucket
from home.bucket_queue import Recovered, recover
from home.drain_journal import Journal
from model.control import QueuedItem
from relay.envelope import Item
from relay.s3 import Rhythm, S3Place
from tests.bucket import PREFIX, THROUGH, Bucket
from tests.drain import HOME, envelope, make_drain
from tests.mail_sink import Sink

_MESSAGES = [b"No: %d\r\n\r\nhello\r\n" % number for number in range(4)]


def _sealed(message: bytes) -> bytes:
    return pyrage.encrypt(Item(envelope(), BytesIO(message)).read(10**6) + message, [HOME.to_public()])


class _Dead:
    """A relay that has put messages into its bucket and died."""

    def __init__(self, folder: Path) -> None:
        self.bucket = Bucket()
        place = S3Place(THROUGH, folder, "e" * 32, objects=self.bucket, rhythm=Rhythm(600, 0.01, (0.01,)))
        place.start(())
        while not place.has_room(0):
            time.sleep(0.002)
        self.items = []
        for number, message in enumerate(_MESSAGES):
            octets = _sealed(message)
            item = QueuedItem(f"{number:032x}", number + 1, len(octets), number, hashlib.sha256(octets).hexdigest())
            upload = place.begin(item.id)
            upload.write(octets)
            upload.finish(item.sha256, item.received)
            self.items.append(item)
        place.stop()
        self.folder = folder

    def recover(self, sink: Sink) -> Recovered:
        home = self.folder / "home"
        home.mkdir(exist_ok=True)
        bucket = HomeBucket(self.bucket, THROUGH.seal, {})
        ((leftover,), _) = bucket.leftovers()
        journal = Journal(home)
        try:
            return recover(bucket, leftover, journal, lambda queue: make_drain(home, queue, sink))
        finally:
            journal.close()

    def drop(self, number: int) -> None:
        home = HomeBucket(self.bucket, THROUGH.seal, {})
        ((leftover,), _) = home.leftovers()
        home.remove(leftover.folder, [self.items[number]])


@pytest.fixture
def dead(tmp_path: Path) -> _Dead:
    return _Dead(tmp_path)


@pytest.fixture
def sink() -> Iterator[Sink]:
    made = Sink()
    yield made
    made.close()


def test_all_of_it_comes_in_order_and_the_bucket_is_empty_then(dead: _Dead, sink: Sink) -> None:
    found = dead.recover(sink)
    assert (found.had, found.missing, found.left) == (4, 0, 0)
    assert [taken.message for taken in sink.taken] == _MESSAGES
    assert dead.bucket.content() == {}


def test_what_the_owner_has_taken_away_is_counted_and_the_rest_comes(dead: _Dead, sink: Sink) -> None:
    dead.drop(1)
    found = dead.recover(sink)
    assert (found.had, found.missing, found.left) == (3, 1, 0)
    assert [taken.message for taken in sink.taken] == [_MESSAGES[0], *_MESSAGES[2:]]
    assert dead.bucket.content() == {}


def test_what_home_has_is_not_taken_twice(dead: _Dead, sink: Sink) -> None:
    content = dead.bucket.content()
    dead.recover(sink)
    dead.bucket.set_back(content)
    found = dead.recover(sink)
    assert (found.had, found.missing, found.left) == (4, 0, 0)
    assert [taken.message for taken in sink.taken] == _MESSAGES


def test_what_is_not_taken_now_stays_in_the_bucket(dead: _Dead, sink: Sink) -> None:
    sink.judge = {"RCPT TO:<alice@example.com>": "450 4.2.0 later"}.get
    found = dead.recover(sink)
    assert (found.had, found.missing, found.left) == (0, 0, 4)
    assert any(name.startswith(PREFIX) for name in dead.bucket.content())
    sink.judge = lambda line: None
    assert dead.recover(sink).had == 4


def test_foreign_objects_stay(dead: _Dead, sink: Sink) -> None:
    obstore.put(dead.bucket.store, "notes", b"another's")
    dead.recover(sink)
    assert list(dead.bucket.content()) == ["notes"]
