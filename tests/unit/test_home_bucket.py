"""What a dead relay has left in its bucket: all of it is found, and what the owner did to it is told."""

from __future__ import annotations

import hashlib
import itertools
import os
import time
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import obstore
import pyrage
import pytest

from home.bucket import Bucket as HomeBucket
from home.bucket import Leftover, MissingError
from home.bucket_seen import forget_seen, note_seen, read_seen
from model.bucket import HEAD, PIECE, BucketError, Entry, Seal
from model.control import BucketStatus, QueuedItem
from relay.s3 import Rhythm, S3Place
from tests.bucket import PREFIX, THROUGH, Bucket

_CONTENT = [b"first", os.urandom(PIECE + 1), b"third"]


class _Left:
    """A relay that has taken three messages and died, and the states of its bucket after each of them."""

    def __init__(self, folder: Path) -> None:
        self.bucket = Bucket()
        clock, rhythm = itertools.count(1_795_478_400), Rhythm(600, 0.01, (0.01,))
        place = S3Place(THROUGH, folder, "e" * 32, lambda: float(next(clock)), objects=self.bucket, rhythm=rhythm)
        place.start(())
        while not place.has_room(0):
            time.sleep(0.002)
        self.items, self.states = [], []
        for number, octets in enumerate(_CONTENT):
            item = QueuedItem(f"{number:032x}", number + 1, len(octets), number, hashlib.sha256(octets).hexdigest())
            upload = place.begin(item.id)
            upload.write(octets)
            upload.finish(item.sha256, item.received)
            self.items.append(item)
            self.states.append(self.bucket.content())
        place.stop()
        place._thread.join()  # it may be writing the records once more
        self.states[-1] = self.bucket.content()
        status = place.status()
        assert status
        self.status: BucketStatus = status
        self.seal = Seal(THROUGH.seal, status.folder)

    def home(self, seen: int | None = None) -> HomeBucket:
        return HomeBucket(self.bucket, THROUGH.seal, {self.status.folder: seen or self.status.version})

    def read(self, home: HomeBucket) -> tuple[list[bytes], list[str]]:
        """Give what home gets, and what it is told."""
        found, problems = home.leftovers()
        contents = []
        for leftover in found:
            problems += leftover.problems
            for item in leftover.items:
                into = BytesIO()
                try:
                    home.download(leftover.folder, item, into)
                except MissingError as error:
                    problems.append(str(error))
                else:
                    contents.append(into.getvalue())
        return contents, problems

    def path(self, name: str) -> str:
        return f"{PREFIX}{self.status.folder}/{name}"

    def piece(self, item: int, number: int = 0) -> str:
        return self.path(self.seal.piece_name(self.items[item].id, number))

    def page(self) -> str:
        (page,) = self.home().leftovers()[0][0].head.pages
        return self.path(page.name)


@pytest.fixture
def left(tmp_path: Path) -> _Left:
    return _Left(tmp_path)


def test_all_is_found_in_the_order_of_arrival(left: _Left) -> None:
    obstore.put(left.bucket.store, f"{PREFIX}{'f' * 32}/{HEAD}", b"another's")
    obstore.put(left.bucket.store, "notes", b"another's")
    assert left.read(left.home()) == (_CONTENT, [])


def test_home_can_know_nothing_before(left: _Left) -> None:
    """As after its own loss, when a backup has the secret."""
    assert left.read(HomeBucket(left.bucket, THROUGH.seal, {})) == (_CONTENT, [])
    stranger = HomeBucket(left.bucket, str(pyrage.x25519.Identity.generate()), {})
    assert stranger.leftovers() == ([], [])


def _drop(left: _Left) -> None:
    obstore.delete(left.bucket.store, left.piece(1, 1))


def _other(left: _Left) -> None:
    obstore.put(left.bucket.store, left.piece(0), b"FIRST")


def _exchange(left: _Left) -> None:
    content = left.bucket.content()
    obstore.put(left.bucket.store, left.piece(0), content[left.piece(2)])
    obstore.put(left.bucket.store, left.piece(2), content[left.piece(0)])


def _replay(left: _Left) -> None:
    left.bucket.set_back(left.states[1])


def _drop_page(left: _Left) -> None:
    obstore.delete(left.bucket.store, left.page())


def _older_page(left: _Left) -> None:
    """The page of an older state, in the place of the newest."""
    page, head = left.page(), left.bucket.content()[left.path(HEAD)]
    left.bucket.set_back(left.states[1])
    older = left.bucket.content()[left.page()]
    left.bucket.set_back({**left.states[2], page: older, left.path(HEAD): head})


def _drop_head(left: _Left) -> None:
    obstore.delete(left.bucket.store, left.path(HEAD))


def _drop_all(left: _Left) -> None:
    left.bucket.set_back({})


def _change_head(left: _Left) -> None:
    head = left.bucket.content()[left.path(HEAD)]
    obstore.put(left.bucket.store, left.path(HEAD), head[:-1] + bytes([head[-1] ^ 1]))


@pytest.mark.parametrize(
    ("tamper", "kept"),
    [
        (_drop, [0, 2]),
        (_other, [1, 2]),
        (_exchange, [1]),
        (_replay, [0, 1]),
        (_drop_page, []),
        (_older_page, []),
        (_drop_head, []),
        (_drop_all, []),
        (_change_head, []),
    ],
)
def test_whatever_the_owner_does_is_told_and_nothing_false_is_taken(
    left: _Left, tamper: Callable[[_Left], None], kept: list[int]
) -> None:
    tamper(left)
    contents, problems = left.read(left.home())
    assert contents == [_CONTENT[number] for number in kept]
    assert problems


@pytest.mark.parametrize("change", [{"written": 10**20}, {"written": -1}, {"epoch": "../x"}, {"written": float("inf")}])
def test_a_head_that_a_relay_has_made_up_is_none(left: _Left, change: dict[str, Any]) -> None:
    ((leftover,), _) = left.home().leftovers()
    forged = left.seal.head(replace(leftover.head, **change))
    with pytest.raises(BucketError, match="format"):
        left.seal.read_head(forged)


@pytest.mark.parametrize("change", [{"received": 2**63}, {"size": 2**63}, {"received": -1}])
def test_an_entry_that_a_relay_has_made_up_is_none(left: _Left, change: dict[str, Any]) -> None:
    forged = left.seal.page([replace(Entry("0" * 32, 1, 1, "f" * 64), **change)])
    with pytest.raises(BucketError, match="format"):
        left.seal.read_page(forged, hashlib.sha256(forged).hexdigest())


def test_an_older_state_that_home_cannot_know_to_be_old_shows_its_time(left: _Left) -> None:
    _replay(left)
    home = left.home(seen=1)
    assert left.read(home) == (_CONTENT[:2], [])
    ((leftover,), _) = home.leftovers()
    assert leftover.head.written < left.status.written


def test_what_home_has_is_removed_and_then_the_records(left: _Left) -> None:
    home = left.home()
    ((leftover,), _) = home.leftovers()
    obstore.put(left.bucket.store, left.path("notes"), b"another's")
    home.remove(leftover.folder, leftover.items)
    home.remove(leftover.folder, leftover.items)
    home.close(leftover)
    assert list(left.bucket.content()) == [left.path("notes")]


def test_a_folder_in_which_a_relay_is_at_work_after_all_is_not_emptied(left: _Left) -> None:
    home, content = left.home(), left.bucket.content()
    left.bucket.set_back(left.states[1])
    ((leftover,), _) = left.home(seen=1).leftovers()
    left.bucket.set_back(content)  # it takes a third message
    with pytest.raises(BucketError, match="not gone"):
        home.close(leftover)
    assert left.bucket.content() == content


def test_a_relay_at_work_is_left_alone(left: _Left) -> None:
    assert left.home().leftovers(besides=[left.status.folder]) == ([], [])


def test_home_remembers_the_latest_version_only(tmp_path: Path) -> None:
    first, second = "1" * 32, "2" * 32
    for folder, version in ((first, 5), (first, 4), (second, 1), (first, 6)):
        note_seen(tmp_path, BucketStatus(folder, version, 0, 0))
    assert read_seen(tmp_path) == {first: 6, second: 1}
    forget_seen(tmp_path, first)
    assert read_seen(tmp_path) == {second: 1}
    (tmp_path / "bucket-seen.json").write_bytes(b"\0")
    assert read_seen(tmp_path) == {}


def test_a_relay_that_names_folder_after_folder_does_not_fill_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("home.bucket_seen._MOST_SEEN", 3)
    for number in range(10):
        note_seen(tmp_path, BucketStatus(f"{number:032x}", 1, 0, 0))
    note_seen(tmp_path, BucketStatus(f"{0:032x}", 2, 0, 0))
    assert read_seen(tmp_path) == {f"{number:032x}": 2 - (number > 0) for number in range(3)}


def test_a_leftover_counts_its_items(left: _Left) -> None:
    ((leftover,), _) = left.home().leftovers()
    assert isinstance(leftover, Leftover)
    assert [item.sequence for item in leftover.items] == [1, 2, 3]
    assert leftover.head.epoch == "e" * 32
