"""Waiting for a time server."""

from __future__ import annotations

from pathlib import Path

import pytest

from firstboot.clock import Known, wait_for_time


class Time:
    """A clock that goes on when somebody sleeps; at some moment a time server answers."""

    def __init__(self, mark: Path, answer: float | None) -> None:
        self.seconds, self._mark, self._answer = 1000.0, mark, answer

    def now(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds
        if self._answer is not None and self.seconds - 1000 >= self._answer:
            self._mark.touch()


def _wait(tmp_path: Path, answer: float | None) -> tuple[Known, float, list[str]]:
    mark, told = tmp_path / "synchronized", list[str]()
    time = Time(mark, answer)
    known = wait_for_time(told.append, clocks=tmp_path / "rtc", synchronized=mark, now=time.now, sleep=time.sleep)
    return known, time.seconds - 1000, told


def test_a_device_with_a_clock_waits_for_nobody(tmp_path: Path) -> None:
    (tmp_path / "rtc/rtc0").mkdir(parents=True)
    assert _wait(tmp_path, None) == (Known.BY_CLOCK, 0, [])


def test_a_folder_without_a_clock_is_none(tmp_path: Path) -> None:
    (tmp_path / "rtc").mkdir()
    assert _wait(tmp_path, 1)[0] is Known.BY_SERVER


@pytest.mark.parametrize(("answer", "lines"), [(0.5, 0), (4, 0), (20, 1)])
def test_an_answer_ends_the_wait(tmp_path: Path, answer: float, lines: int) -> None:
    known, seconds, told = _wait(tmp_path, answer)
    assert known is Known.BY_SERVER
    assert seconds == pytest.approx(answer, abs=0.3)
    assert len(told) == lines


def test_without_an_answer_the_device_starts_all_the_same(tmp_path: Path) -> None:
    known, seconds, told = _wait(tmp_path, None)
    assert known is Known.NOT
    assert 60 <= seconds < 61
    assert len(told) == 1
