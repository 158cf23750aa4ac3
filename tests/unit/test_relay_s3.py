"""A bucket as a place for items: what was taken is there and listed there, and what is not as it was is refused."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import obstore
import pytest
from pyrage import x25519

from model.bucket import HEAD, LARGEST_HEAD, PIECE, Entry, Head, Seal
from model.control import QueuedItem
from model.s3 import S3Settings
from relay.place import LostError, PlaceError
from relay.s3 import Rhythm, S3Place
from tests.bucket import PREFIX, SETTINGS, THROUGH, Bucket, fail

_EPOCH = "e" * 32
_QUICK = Rhythm(heartbeat=600, soon=0.01, pauses=(0.01,))
_LARGE = os.urandom(2 * PIECE + 1000)

Start = Callable[..., S3Place]


@pytest.fixture
def bucket() -> Bucket:
    return Bucket()


@pytest.fixture
def start(tmp_path: Path, bucket: Bucket) -> Iterator[Start]:
    """Starts the relay's place, as it would after a crash, and waits until it has seen the bucket."""
    places = list[S3Place]()

    def begin(items: tuple[QueuedItem, ...] = (), settings: S3Settings = SETTINGS, *, wait: bool = True) -> S3Place:
        for before in places:  # a relay that has crashed writes no more
            if before._stopped.is_set():
                before._thread.join()
        place = S3Place(settings, tmp_path, _EPOCH, objects=bucket, rhythm=_QUICK)
        places.append(place)
        place.start(items)
        if wait:
            _until(lambda: place.has_room(0))
        return place

    yield begin
    for place in places:
        place.stop()


def _until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 5
    while not true():
        assert time.monotonic() < end, "it does not come about"
        time.sleep(0.002)


def _item(name: str, octets: bytes) -> QueuedItem:
    return QueuedItem(name, 1, len(octets), 1_795_478_400_000, hashlib.sha256(octets).hexdigest())


def _store(place: S3Place, octets: bytes) -> QueuedItem:
    item = _item(os.urandom(16).hex(), octets)
    upload = place.begin(item.id)
    try:
        for begin in range(0, len(octets), 60_000):
            upload.write(octets[begin : begin + 60_000])
        upload.finish(item.sha256, item.received)
    except BaseException:
        upload.abort()
        raise
    return item


def _read(place: S3Place, item: QueuedItem) -> bytes:
    return b"".join(place.open(item))


def _folder(place: S3Place) -> str:
    status = place.status()
    assert status
    return status.folder


def _version(place: S3Place) -> int:
    status = place.status()
    return status.version if status else 0


def _head(bucket: Bucket, folder: str) -> Head:
    octets = bucket.get(f"{folder}/{HEAD}", LARGEST_HEAD)
    assert octets
    return Seal(SETTINGS.seal, folder).read_head(octets)


def _listed(bucket: Bucket, folder: str) -> list[str]:
    """What home would find with nothing but the bucket."""
    seal = Seal(SETTINGS.seal, folder)
    pages = [(bucket.get(f"{folder}/{page.name}", 10**6), page.sha256) for page in _head(bucket, folder).pages]
    return [entry.id for octets, sha256 in pages for entry in seal.read_page(octets or b"", sha256)]


@pytest.mark.parametrize("octets", [b"", b"x", _LARGE, _LARGE[: 2 * PIECE]])
def test_an_item_is_in_the_bucket_and_listed_there_when_it_is_taken(
    start: Start, bucket: Bucket, octets: bytes
) -> None:
    place = start()
    item = _store(place, octets)
    assert _listed(bucket, _folder(place)) == [item.id]
    assert _read(place, item) == octets
    assert _head(bucket, _folder(place)).octets == len(octets)


def test_the_owner_of_the_bucket_reads_nothing_but_sizes(start: Start, bucket: Bucket) -> None:
    place = start()
    item = _store(place, _LARGE)

    def found() -> set[str]:
        told = b"\n".join(name.encode() + octets for name, octets in bucket.content().items())
        return {one for one in (item.id, item.sha256, _EPOCH, str(item.received)) if one.encode() in told}

    assert found() == set()
    obstore.put(bucket.store, "planted", item.id.encode())
    assert found() == {item.id}


def test_order_and_content_survive_a_start(start: Start, bucket: Bucket) -> None:
    place = start()
    items = tuple(_store(place, bytes([number])) for number in range(5))
    place.stop()
    again = start(items)
    assert _folder(again) == _folder(place)
    assert _version(again) > _version(place)
    assert _listed(bucket, _folder(again)) == [item.id for item in items]
    assert [_read(again, item) for item in items] == [bytes([number]) for number in range(5)]


def test_what_was_removed_leaves_the_records_and_then_the_bucket(start: Start, bucket: Bucket) -> None:
    place = start()
    gone, kept = _store(place, _LARGE), _store(place, b"kept")
    place.remove(gone)
    place.remove(gone)
    _until(lambda: len(bucket.content()) == 3)
    assert _listed(bucket, _folder(place)) == [kept.id]
    with pytest.raises(LostError):
        _read(place, gone)
    assert _read(place, kept) == b"kept"


def test_what_a_crash_has_left_goes_and_nothing_of_others(start: Start, bucket: Bucket) -> None:
    place = start()
    known, left = _store(place, b"known"), _store(place, b"in no index")
    place.stop()
    foreign = {f"{PREFIX}{_folder(place)}/notes.txt", f"{PREFIX}{'f' * 32}/{'0' * 32}", "elsewhere"}
    for name in foreign:
        obstore.put(bucket.store, name, b"foreign")
    again = start((known,))
    assert _listed(bucket, _folder(again)) == [known.id]
    _until(lambda: len(bucket.content()) == len(foreign) + 3)
    assert foreign <= bucket.content().keys()
    assert _read(again, known) == b"known"
    with pytest.raises(LostError):
        _read(again, left)


@pytest.mark.parametrize("call", range(1, 7))
def test_a_store_that_fails_at_any_put_takes_nothing_and_keeps_nothing(start: Start, bucket: Bucket, call: int) -> None:
    """The large item is three pieces, a page and a head."""
    place = start()
    kept = _store(place, b"kept")
    calls = 0

    def at(kind: str, name: str) -> None:
        nonlocal calls
        calls += kind == "put"
        if kind == "put" and calls == call:
            fail(kind, name)

    bucket.before = at
    if call > 5:  # the positive control: there are five
        _store(place, _LARGE)
        return
    with pytest.raises(PlaceError, match="planted"):
        _store(place, _LARGE)
    _until(lambda: place.has_room(0) and len(bucket.content()) == 3)
    assert _listed(bucket, _folder(place)) == [kept.id]
    assert _read(place, kept) == b"kept"
    assert not place.faults()


def test_while_a_store_fails_nobody_waits_for_it_and_home_hears_of_it(start: Start, bucket: Bucket) -> None:
    place = start()
    bucket.before = fail
    with pytest.raises(PlaceError):
        _store(place, b"x")
    assert not place.has_room(0)
    assert "planted" in place.faults()[0].found
    with pytest.raises(PlaceError, match="does not answer"):
        place.begin("0" * 32)
    bucket.before = lambda call, name: None
    _until(lambda: place.has_room(0))
    _store(place, b"x")


def test_a_store_that_deletes_nothing_still_takes_mail_and_that_is_told(start: Start, bucket: Bucket) -> None:
    place = start(settings=THROUGH)

    def refuse(call: str, name: str) -> None:
        if call == "delete":
            fail(call, name)

    bucket.before = refuse
    place.remove(_store(place, b"first"))
    _until(lambda: bool(place.faults()))
    assert "planted" in place.faults()[0].found
    kept = [_store(place, b"x") for _ in range(3)]
    assert place.has_room(0)
    assert _listed(bucket, _folder(place)) == [item.id for item in kept]
    bucket.before = lambda call, name: None
    for item in kept:
        place.remove(item)
    _until(lambda: not place.faults() and len(bucket.content()) == 1)


def test_a_store_that_cannot_be_asked_at_the_start_gets_nothing(start: Start, bucket: Bucket) -> None:
    bucket.before = fail
    place = start(wait=False)
    _until(lambda: bool(place.faults()))
    assert not place.has_room(0)
    bucket.before = lambda call, name: None
    _until(lambda: place.has_room(0))


def test_the_budget_holds(start: Start) -> None:
    place = start(settings=replace(SETTINGS, budget=100_000))
    _store(place, b"x" * 60_000)
    assert place.has_room(40_000)
    assert not place.has_room(40_001)
    with pytest.raises(PlaceError, match="budget"):
        _store(place, _LARGE)
    assert not place.faults()


def test_other_octets_are_not_taken_for_an_item(start: Start, bucket: Bucket) -> None:
    place = start()
    item, other = _store(place, _LARGE), _store(place, _LARGE[::-1])
    seal = Seal(SETTINGS.seal, _folder(place))
    first, second, third = (f"{PREFIX}{_folder(place)}/{seal.piece_name(item.id, number)}" for number in range(3))
    sound = bucket.content()

    def refused() -> bool:
        try:
            return _read(place, item) != _LARGE
        except LostError:
            return True
        finally:
            bucket.set_back(sound)

    assert not refused()
    planted = sound[f"{PREFIX}{_folder(place)}/{seal.piece_name(other.id, 0)}"]
    for name, octets in ((first, planted), (second, sound[first]), (third, sound[third][:-1]), (second, None)):
        if octets is None:
            obstore.delete(bucket.store, name)
        else:
            obstore.put(bucket.store, name, octets)
        assert refused()
    assert "does not give back" in place.faults()[0].found


def test_a_disk_that_was_set_back_does_not_touch_what_came_later(start: Start, bucket: Bucket, tmp_path: Path) -> None:
    place = start(settings=THROUGH)
    old = _store(place, b"old")
    place.stop()
    (snapshot,) = tmp_path.glob("bucket-*.json")
    before = snapshot.read_bytes()
    place = start((old,), THROUGH)
    late = _store(place, b"late")
    place.stop()

    snapshot.write_bytes(before)
    again = start((old,), THROUGH)
    assert _folder(again) != _folder(place)
    assert _listed(bucket, _folder(place)) == [old.id, late.id]
    assert _read(again, late) == b"late"
    assert "recover-bucket" in again.faults()[0].remedy
    again.stop()
    # It says so as long as it has not been looked at, and then goes on in its new folder.
    third = start((old,), THROUGH)
    assert _folder(third) == _folder(again)
    third.stop()
    for name in list(bucket.names(_folder(place))):
        obstore.delete(bucket.store, f"{PREFIX}{_folder(place)}/{name}")
    waiting = start((old,), THROUGH)
    assert waiting.faults(), "as long as something waits that may lie there"
    waiting.stop()
    empty = start((), THROUGH)
    assert (empty.faults(), _folder(empty)) == ((), _folder(again))
    empty.stop()
    assert start((), THROUGH).faults() == ()


def test_a_snapshot_of_the_running_relay_does_not_touch_what_came_later(
    start: Start, bucket: Bucket, tmp_path: Path
) -> None:
    place = start(settings=THROUGH)
    old = _store(place, b"old")
    (file,) = tmp_path.glob("bucket-*.json")
    snapshot = file.read_bytes()
    late = _store(place, b"late")
    place.stop()

    file.write_bytes(snapshot)
    again = start((old,), THROUGH)
    assert _folder(again) != _folder(place)
    assert _listed(bucket, _folder(place)) == [old.id, late.id]
    assert _read(again, late) == b"late"


def test_another_seal_leaves_alone_what_lies_under_the_one_before(start: Start) -> None:
    """Home has lost its secret, and has made another one: by that, nothing there has a name that the relay knows."""
    place = start()
    item = _store(place, b"only here")
    place.stop()
    other = start((item,), replace(SETTINGS, seal=str(x25519.Identity.generate())))
    assert _folder(other) != _folder(place)
    with pytest.raises(LostError):
        _read(other, item)
    other.stop()
    # It has come out of a backup.
    assert _read(start((item,)), item) == b"only here"


def test_what_lies_there_is_found_when_the_queues_epoch_was_lost(start: Start, tmp_path: Path) -> None:
    place = start()
    item = _store(place, b"only here")
    place.stop()
    (file,) = tmp_path.glob("bucket-*.json")
    file.write_text(json.dumps({**json.loads(file.read_text()), "epoch": "f" * 32}))
    again = start((item,))
    assert _folder(again) != _folder(place)
    assert _read(again, item) == b"only here"


def test_the_file_of_an_older_version_is_read(start: Start, tmp_path: Path) -> None:
    place = start(settings=THROUGH)
    item = _store(place, b"old")
    place.stop()
    (file,) = tmp_path.glob("bucket-*.json")
    newer = {"version", "seal"}
    file.write_text(
        json.dumps({name: value for name, value in json.loads(file.read_text()).items() if name not in newer})
    )
    again = start((item,), THROUGH)
    assert _folder(again) == _folder(place)
    assert not again.faults()


def test_a_head_that_somebody_else_has_written_is_told(start: Start, bucket: Bucket) -> None:
    place = start()
    place.stop()
    obstore.put(bucket.store, f"{PREFIX}{_folder(place)}/{HEAD}", b"x" * 100)
    again = start()
    assert "that the relay has not written" in again.faults()[0].found
    assert _listed(bucket, _folder(again)) == []


def test_many_items_come_and_go_with_small_records(start: Start, bucket: Bucket) -> None:
    place = start()
    entries = [Entry(f"{number:032x}", 10, number, "0" * 64) for number in range(3000)]
    place._records.add(entries)
    for entry in entries:
        if int(entry.id, 16) % 100:
            place._records.remove(entry.id)
    kept = _store(place, b"kept")
    expected = [entry.id for entry in entries if int(entry.id, 16) % 100 == 0]
    assert _listed(bucket, _folder(place)) == [*expected, kept.id]
    assert len(_head(bucket, _folder(place)).pages) <= 9


def test_the_head_beats_although_nothing_happens(tmp_path: Path, bucket: Bucket) -> None:
    place = S3Place(SETTINGS, tmp_path, _EPOCH, objects=bucket, rhythm=Rhythm(0.02, 0.01, (0.01,)))
    place.start(())
    _until(lambda: _version(place) > 0)
    first = _version(place)
    _until(lambda: _version(place) > first + 2)
    place.stop()
