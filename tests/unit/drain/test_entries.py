"""The drain by itself: what every order of answers makes of an entry, numbers that rouse suspicion, and the journal."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from home.drain import Entry, Fate, Reply, Step, answered, begun, looked, next_step, notices, opened, waiting
from home.drain_journal import NAME, Journal, JournalError
from home.hand_over import stuffed
from model.control import SEQUENCE_BLOCK, QueuedItem
from relay.content import Content
from tests.drain import RECEIVED

_ITEM = QueuedItem("0" * 32, 1, 100, RECEIVED, "f" * 64)
_SERVER = st.sampled_from(["250", "450", "550", "lost, taken", "lost, not taken", "cut before", "cut after"])


@given(st.lists(st.lists(_SERVER, min_size=3, max_size=3), max_size=12))
def test_whatever_comes_nobody_gets_it_twice_and_the_relay_forgets_what_is_settled(
    sessions: Sequence[Sequence[str]],
) -> None:
    entry: Entry | None = None
    has: Counter[int] = Counter()
    kept: set[int] = set()
    for session in sessions:
        match next_step(entry, 0.0, 1.0):
            case Step.OPEN:
                entry = opened(entry or Entry("e", _ITEM), ["a@b.example"] * 3)
                continue
            case Step.DELETE:
                assert entry
                assert has.keys() | kept == {0, 1, 2}
                return
            case step:
                assert step is Step.HAND_OVER
        assert entry
        who = waiting(entry)
        assert who
        assert not set(who) & has.keys()
        replies = {number: Reply(int(session[number])) for number in who if session[number].isdecimal()}
        kept |= {number for number, reply in replies.items() if reply.final}
        good = [number for number in who if number not in replies or replies[number].good]
        end = next((session[number] for number in good if number not in replies), "250")
        if end == "cut before" or not good:
            entry = answered(entry, {} if end == "cut before" else replies)
            continue
        entry = begun(entry, good, 1)
        assert next_step(entry, 0.0, 1.0) is Step.LOOK
        if end != "lost, not taken":
            has.update(good)
        if end == "250":
            entry = answered(entry, {**replies, **dict.fromkeys(good, Reply(250))})
        else:
            entry = looked(entry, there=end != "lost, not taken")
    assert all(count == 1 for count in has.values())


def test_a_fate_that_is_final_stays_so() -> None:
    entry = answered(opened(Entry("e", _ITEM), ["a@b.example"]), {0: Reply(250)})
    assert answered(entry, {0: Reply(550)}) == entry
    assert looked(entry, there=False) == entry


@given(st.lists(st.binary(max_size=6) | st.sampled_from([b"\r\n.", b".", b"\r", b"\n", b"\r\n"]), max_size=12))
def test_what_is_stuffed_comes_out_as_it_was(pieces: list[bytes]) -> None:
    message = b"".join(pieces) + b"\r\n"
    assert Content().feed(b"".join(stuffed(iter([*pieces, b"\r\n"]))) + b".\r\n") == (message, b"")


def test_an_honest_relay_is_not_suspected() -> None:
    items = [replace(_ITEM, id=f"{number:032x}", sequence=number) for number in (1, 2, 3)]
    assert not list(notices(0, items, {}))
    later = replace(_ITEM, sequence=SEQUENCE_BLOCK + 1)
    assert not list(notices(3, [later], {})), "a restart begins a new block"
    assert not list(notices(0, [replace(_ITEM, sequence=77)], {})), "another home may have taken what was before"
    assert not list(notices(1, [_ITEM], {_ITEM.id: Entry("e", _ITEM)}))


@pytest.mark.parametrize(
    ("highest", "numbers", "words"),
    [
        (1, [3], "item no. 2 never came"),
        (0, [1, 5], "items no. 2 to 4 never came"),
        (0, [2, 1], "out of order"),
        (0, [1, 1], "to two items"),
        (5, [4], "left out before"),
        (3, [3 * SEQUENCE_BLOCK + 1], "never came"),
    ],
)
def test_a_relay_that_drops_or_reorders_is_noticed(highest: int, numbers: Sequence[int], words: str) -> None:
    items = [replace(_ITEM, id=f"{place:032x}", sequence=number) for place, number in enumerate(numbers)]
    assert words in "\n".join(notices(highest, items, {}, ()))


def test_who_has_just_started_does_not_suspect_what_was_not_taken_up_yet() -> None:
    assert not list(notices(5, [replace(_ITEM, sequence=4)], {}))
    assert not list(notices(5, [replace(_ITEM, sequence=4)], {}, {_ITEM.id}))


def test_a_journal_that_is_damaged_or_newer_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(b"no journal" * 1000)
    with pytest.raises(JournalError, match=re.escape(str(tmp_path / NAME))):
        Journal(tmp_path)
    (tmp_path / NAME).unlink()
    made = Journal(tmp_path)
    made._base.execute("PRAGMA user_version = 2")
    made.close()
    with pytest.raises(JournalError, match="another version"):
        Journal(tmp_path)


def test_the_journal_forgets_after_a_year(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    entry = answered(opened(Entry("e", _ITEM), ["a@b.example"]), {0: Reply(250)})
    journal.note(replace(entry, deleted=True))
    journal.note(replace(entry, item=replace(_ITEM, id="1" * 32)))
    journal.prune(RECEIVED + 364 * 86_400_000)
    assert journal.find("e", [_ITEM.id])
    journal.prune(RECEIVED + 366 * 86_400_000)
    assert not journal.find("e", [_ITEM.id])
    assert journal.find("e", ["1" * 32])["1" * 32].people[0].fate is Fate.TAKEN, "the relay has it still"
