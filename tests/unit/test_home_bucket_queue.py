"""What a dead relay has left in its bucket comes into the mailbox, once, and what is missing is told."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import obstore
import pyrage
import pytest

import home.drain
from home import bucket_run
from home.bucket import Bucket as HomeBucket
from home.bucket_commands import _at_work
from home.bucket_queue import Recovered, recover
from home.bucket_seen import note_seen, read_seen
from home.control_errors import Unreachable
from home.drain_journal import Journal, only_drain
from home.drain_state import Doing, Drained
from home.relay_peer import PEER
from model.bucket import HEAD, Seal
from model.control import BucketStatus, QueuedItem, QueueStatus
from model.problems import Refusal
from model.s3_objects import StoreError
from relay.envelope import Item
from relay.s3 import Rhythm, S3Place
from tests.bucket import PREFIX, THROUGH, Bucket
from tests.drain import HOME, envelope, make_drain
from tests.mail_sink import Sink

_MESSAGES = [b"No: %d\r\n\r\nhello\r\n" % number for number in range(4)]


def _sealed(message: bytes, recipient: str = "alice@example.com") -> bytes:
    return pyrage.encrypt(Item(envelope(recipient), BytesIO(message)).read(10**6) + message, [HOME.to_public()])


class _Dead:
    """A relay that has put messages into its bucket and died."""

    def __init__(self, folder: Path, sealed: Sequence[bytes]) -> None:
        self.bucket = Bucket()
        place = S3Place(THROUGH, folder, "e" * 32, objects=self.bucket, rhythm=Rhythm(600, 0.01, (0.01,)))
        place.start(())
        while not place.has_room(0):
            time.sleep(0.002)
        self.items = []
        for number, octets in enumerate(sealed):
            item = QueuedItem(f"{number:032x}", number + 1, len(octets), number, hashlib.sha256(octets).hexdigest())
            upload = place.begin(item.id)
            upload.write(octets)
            upload.finish(item.sha256, item.received)
            self.items.append(item)
        place.stop()
        place._thread.join()  # it may be writing the records once more
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

    def piece(self, number: int) -> str:
        """Name the first object of an item."""
        ((leftover,), _) = HomeBucket(self.bucket, THROUGH.seal, {}).leftovers()
        return f"{leftover.folder}/{Seal(THROUGH.seal, leftover.folder).piece_name(self.items[number].id, 0)}"

    def drop(self, number: int) -> None:
        home = HomeBucket(self.bucket, THROUGH.seal, {})
        ((leftover,), _) = home.leftovers()
        home.remove(leftover.folder, [self.items[number]])


@pytest.fixture
def dead(tmp_path: Path) -> _Dead:
    return _Dead(tmp_path, [_sealed(message) for message in _MESSAGES])


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


def test_many_that_are_missing_do_not_hide_what_lies_behind_them(tmp_path: Path, sink: Sink) -> None:
    """A rule of the bucket's own deletes the oldest ones; write-through, switched on late, has never had them."""
    many = 2 * home.drain.MOST_REFUSED + 1
    dead = _Dead(tmp_path, [_sealed(b"\r\n%d\r\n" % number) for number in range(many + 2)])
    for number in range(many):
        dead.drop(number)
    found = dead.recover(sink)
    assert (found.had, found.missing, found.left) == (2, many, 0)


def test_many_for_one_who_takes_nothing_now_do_not_hide_what_lies_behind_them(tmp_path: Path, sink: Sink) -> None:
    many = 2 * home.drain.MOST_REFUSED + 1
    dead = _Dead(tmp_path, [*(_sealed(b"\r\n", "full@example.com") for _ in range(many)), _sealed(_MESSAGES[0])])
    sink.judge = {"RCPT TO:<full@example.com>": "452 4.2.2 mailbox is full"}.get
    found = dead.recover(sink)
    assert (found.had, found.missing, found.left) == (1, 0, many)
    assert [taken.message for taken in sink.taken] == _MESSAGES[:1]


def _hide(dead: _Dead, hidden: str, times: int) -> None:
    """Let the store say of an object, some times, that there is none."""
    get, left = dead.bucket.get, [None] * times

    def without(name: str, most: int) -> bytes | None:
        return left.pop() if name == hidden and left else get(name, most)

    dead.bucket.get = without  # type: ignore[method-assign]


def test_what_was_missing_for_a_moment_does_not_count_for_what_stays(
    tmp_path: Path, sink: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(home.drain, "_SOON", 0.0)
    dead = _Dead(tmp_path, [_sealed(_MESSAGES[0]), _sealed(b"\r\n", "full@example.com"), _sealed(_MESSAGES[2])])
    sink.judge = {"RCPT TO:<full@example.com>": "452 4.2.2 mailbox is full"}.get
    _hide(dead, dead.piece(0), times=1)
    found = dead.recover(sink)
    assert (found.had, found.missing, found.left) == (2, 0, 1)
    sink.judge = lambda _line: None
    assert dead.recover(sink).had == 3
    assert len(sink.taken) == 3


def test_what_the_store_says_not_to_have_and_has_stays_there(dead: _Dead, sink: Sink) -> None:
    _hide(dead, dead.piece(1), times=2)
    found = dead.recover(sink)
    assert (found.had, found.missing, found.left) == (3, 1, 0)
    assert "1 of the messages" in found.problems[-1]
    assert dead.recover(sink) == Recovered(found.folder, found.written, 4, 0, 0, ())
    assert sorted(taken.message for taken in sink.taken) == _MESSAGES
    assert dead.bucket.content() == {}


def _failing(name: str) -> Callable[[str, str], None]:
    def fail(call: str, asked: str) -> None:
        if call == "get" and asked.endswith(name):
            raise StoreError("planted")

    return fail


def test_one_object_that_the_store_cannot_read_stops_nobody(dead: _Dead, sink: Sink) -> None:
    dead.bucket.before = _failing(dead.piece(0))
    found = dead.recover(sink)
    assert (found.had, found.missing, found.left) == (3, 0, 1)


def test_a_store_that_fails_as_a_whole_ends_it(tmp_path: Path, sink: Sink) -> None:
    dead = _Dead(tmp_path, [_sealed(b"\r\n") for _ in range(20)])
    asked: list[str] = []

    def fail(call: str, name: str) -> None:
        if call == "get" and not name.endswith("head") and name not in pages:
            asked.append(name)
            raise StoreError("planted")

    ((leftover,), _) = HomeBucket(dead.bucket, THROUGH.seal, {}).leftovers()
    pages = {f"{leftover.folder}/{page.name}" for page in leftover.head.pages}
    dead.bucket.before = fail
    with pytest.raises(Unreachable, match="planted"):
        dead.recover(sink)
    assert len(asked) <= 8


_STATUS = QueueStatus(1, "", "e" * 32, 0, 0, None, 1, None, 0, 0)
"""Of a relay that has just started, and has written nothing into its bucket since."""


def _drained(relay: QueueStatus | None) -> Drained:
    return Drained(written=0.0, doing=Doing.AWAY, since=0.0, relay=relay)


@pytest.mark.parametrize("drained", [None, _drained(None), _drained(_STATUS)])
def test_the_bucket_of_a_relay_that_may_live_is_left_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, drained: Drained | None
) -> None:
    monkeypatch.setattr("home.bucket_commands.read_drained", lambda: drained)
    assert _at_work(tmp_path) == [], "home has no relay"
    (tmp_path / PEER).write_text("{}")
    with pytest.raises(Refusal, match="relay-is-gone"):
        _at_work(tmp_path)
    known = replace(_STATUS, bucket=BucketStatus("f" * 32, 1, 0, 0))
    monkeypatch.setattr("home.bucket_commands.read_drained", lambda: _drained(known))
    assert _at_work(tmp_path) == ["f" * 32]


def test_a_folder_that_was_emptied_is_no_loss_though_the_last_answer_was_lost(dead: _Dead, sink: Sink) -> None:
    home = dead.folder / "home"
    home.mkdir()
    ((leftover,), _) = HomeBucket(dead.bucket, THROUGH.seal, {}).leftovers()
    note_seen(home, BucketStatus(leftover.folder, leftover.head.version, 0, 0))
    delete = dead.bucket.delete

    def lose_answer(names: Iterable[str]) -> None:
        delete(wanted := list(names))
        if wanted[-1].endswith(HEAD):
            raise StoreError("planted")

    def run() -> dict[str, Any]:
        bucket = HomeBucket(dead.bucket, THROUGH.seal, read_seen(home))
        return bucket_run.run(home, bucket, (), lambda _journal, queue: make_drain(home, queue, sink))

    dead.bucket.delete = lose_answer  # type: ignore[method-assign]
    assert "planted" in run()["stopped"]
    assert run() == {"folders": [], "problems": [], "stopped": ""}
    assert len(sink.taken) == len(_MESSAGES)


def test_a_folder_that_is_gone_is_told_once(dead: _Dead, sink: Sink) -> None:
    home = dead.folder / "home"
    home.mkdir()
    note_seen(home, BucketStatus("f" * 32, 1, 0, 0))
    dead.bucket.set_back({})
    for told in (1, 0):
        bucket = HomeBucket(dead.bucket, THROUGH.seal, read_seen(home))
        found = bucket_run.run(home, bucket, (), lambda _journal, queue: make_drain(home, queue, sink))
        assert len(found["problems"]) == told


def test_two_at_once_hand_over_nothing_twice(dead: _Dead, sink: Sink) -> None:
    """Whoever is impatient types it once more, on another terminal."""
    home, second = dead.folder / "home", list[dict[str, Any]]()
    home.mkdir()

    def run() -> dict[str, Any]:
        bucket = HomeBucket(dead.bucket, THROUGH.seal, {})
        return bucket_run.run(home, bucket, (), lambda _journal, queue: make_drain(home, queue, sink))

    def type_again(line: str) -> None:
        if line == "DATA" and not second:
            second.append({})  # only once
            second[0] = run()

    sink.judge = type_again
    assert [one["had"] for one in run()["folders"]] == [len(_MESSAGES)]
    assert "already" in second[0]["stopped"]
    assert [taken.message for taken in sink.taken] == _MESSAGES
    with only_drain(home):
        assert "already" in run()["stopped"], "the service is at work"
