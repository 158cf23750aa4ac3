"""Devices that call with unknown keys: told once, and home's own calls are not mistaken for theirs."""

from __future__ import annotations

import pytest

from relay.callers import EVERY, MANY, QUIET, TEXT, Callers, packets


def _said(counts: list[int | None], every: float = EVERY) -> list[bool]:
    left = list(counts)
    callers = Callers(lambda: left.pop(0))
    return [callers.look(1000 + number * every) == TEXT for number in range(len(counts))]


def test_a_device_that_goes_on_calling_is_told_once_an_hour() -> None:
    hour = int(QUIET / EVERY)
    said = _said([12 * number for number in range(2 * hour + 2)])
    assert [number for number, told in enumerate(said) if told] == [1, 1 + hour, 1 + 2 * hour]


@pytest.mark.parametrize(
    "counts",
    [
        [0, 1, 2, 3],  # home, whose address changes
        [0, MANY - 1, 2 * (MANY - 1)],
        [500, 500],  # from before the agent's start
        [100, 100, 0, 3],  # loaded anew
        [None, None],
    ],
)
def test_of_others_nothing_is_said(counts: list[int | None]) -> None:
    assert not any(_said(counts))


def test_a_counter_that_begins_anew_is_no_end() -> None:
    assert _said([100, 100, MANY]) == [False, False, True]
    assert _said([None, 900, 900 + MANY]) == [False, False, True]


def test_it_is_read_once_a_minute() -> None:
    assert _said([0, 100], every=EVERY - 1) == [False, False]


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        ('{"nftables": [{"metainfo": {}}, {"counter": {"name": "callers", "packets": 7, "bytes": 1036}}]}', 7),
        ('{"nftables": [{"metainfo": {}}]}', None),
        ("Error: No such file or directory", None),
        ("[]", None),
        ('{"nftables": [1]}', None),
    ],
)
def test_what_nft_shows_is_read(shown: str, expected: int | None) -> None:
    assert packets(shown) == expected
