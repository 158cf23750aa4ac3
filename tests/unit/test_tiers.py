from __future__ import annotations

import pytest

from tests.tiers import Outcome, clock, summary


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (4.14, "4.1 s"), (59.94, "59.9 s"), (60, "1 min 0 s"), (119.6, "2 min 0 s"), (723, "12 min 3 s")],
)
def test_times_are_told_as_people_do(seconds: float, text: str) -> None:
    assert clock(seconds) == text


def test_the_last_line_has_the_sums_and_what_was_not_run_is_named() -> None:
    outcomes = [Outcome("unit", 12, 0, 0, 1.5), Outcome("machine", 3, 1, 2, 80)]
    lines = summary(outcomes, ["unit", "machine", "images"]).splitlines()
    assert lines[-1] == "15 passed, 1 failed, 2 skipped"
    assert lines[-2] == "images   not run"
