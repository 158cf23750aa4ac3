"""A clock that stops without power: where it goes on, and waiting for a time server."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

from firstboot.clock import Known, time_was_kept, wait_for_time

_INITRAMFS = Path(__file__).resolve().parents[2] / "profiles/common/initramfs/scripts"

_BUILT = 1_700_000_000
_YEAR = 365.2425 * 86400


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


@pytest.fixture
def epoch(tmp_path: Path) -> Path:
    """The image's file with its time."""
    return _touched(tmp_path / "clock-epoch", _BUILT)


def _touched(path: Path, seconds: float) -> Path:
    path.touch()
    os.utime(path, (seconds, seconds))
    return path


def _clock(tmp_path: Path, *shown: str) -> Path:
    """Make the kernel's folder of real-time clocks."""
    for number, text in enumerate(shown):
        (tmp_path / f"rtc/rtc{number}").mkdir(parents=True)
        (tmp_path / f"rtc/rtc{number}/since_epoch").write_text(text)
    return tmp_path / "rtc"


def _wait(tmp_path: Path, epoch: Path, answer: float | None) -> tuple[Known, float, list[str]]:
    mark, told = tmp_path / "synchronized", list[str]()
    time = Time(mark, answer)
    known = wait_for_time(
        told.append, clocks=tmp_path / "rtc", epoch=epoch, synchronized=mark, now=time.now, sleep=time.sleep
    )
    return known, time.seconds - 1000, told


@pytest.mark.parametrize(
    ("shown", "kept"),
    [
        ([f"{_BUILT}\n"], True),
        ([f"{_BUILT + 86400}\n"], True),
        ([f"{_BUILT - 1}\n"], False),
        (["12\n"], False),
        (["12\n", f"{_BUILT + 1}\n"], True),
        (["12\n", "13\n"], False),
        ([""], False),
        (["-1\n"], False),
        ([], False),
    ],
)
def test_a_clock_that_is_before_the_image_has_stopped(
    tmp_path: Path, epoch: Path, shown: list[str], kept: bool
) -> None:
    assert time_was_kept(_clock(tmp_path, *shown), epoch) == kept


def test_a_clock_that_cannot_be_read_has_stopped(tmp_path: Path, epoch: Path) -> None:
    # The kernel answers EINVAL for a clock that knows that its battery was empty; a folder answers EISDIR.
    (tmp_path / "rtc/rtc0/since_epoch").mkdir(parents=True)
    assert not time_was_kept(tmp_path / "rtc", epoch)


def test_a_device_with_a_clock_waits_for_nobody(tmp_path: Path, epoch: Path) -> None:
    _clock(tmp_path, f"{_BUILT + 5}\n")
    assert _wait(tmp_path, epoch, None) == (Known.BY_CLOCK, 0, [])


def test_a_device_whose_clock_has_stopped_waits(tmp_path: Path, epoch: Path) -> None:
    _clock(tmp_path, "5\n")
    assert _wait(tmp_path, epoch, 1)[0] is Known.BY_SERVER


@pytest.mark.parametrize(("answer", "lines"), [(0.5, 0), (4, 0), (20, 1)])
def test_an_answer_ends_the_wait(tmp_path: Path, epoch: Path, answer: float, lines: int) -> None:
    known, seconds, told = _wait(tmp_path, epoch, answer)
    assert known is Known.BY_SERVER
    assert seconds == pytest.approx(answer, abs=0.3)
    assert len(told) == lines


def test_without_an_answer_the_device_starts_all_the_same(tmp_path: Path, epoch: Path) -> None:
    known, seconds, told = _wait(tmp_path, epoch, None)
    assert known is Known.NOT
    assert 60 <= seconds < 61
    assert len(told) == 1


@pytest.mark.parametrize(
    ("years", "taken"),
    [
        pytest.param(1, True, id="in a year"),
        pytest.param(-1, False, id="a year ago"),
        # Debian builds systemd with 15 years (`clock-valid-range-usec-max`), of which now and then some have passed.
        pytest.param(20, False, id="in 20 years"),
        pytest.param(80, False, id="in 80 years, past what 32 bits hold"),
    ],
)
def test_the_initramfs_takes_a_mark_that_is_later_and_can_be(tmp_path: Path, years: int, taken: bool) -> None:
    now = int(time.time())
    mark = _touched(tmp_path / "clock", now + years * _YEAR)
    assert _later_time(mark, _touched(tmp_path / "built", now - 86400)) == (
        f"{int(now + years * _YEAR)}\n" if taken else ""
    )


def test_the_initramfs_measures_what_can_be_from_the_image(tmp_path: Path) -> None:
    now = time.time()
    mark = _touched(tmp_path / "clock", now + 2 * _YEAR)
    assert _later_time(mark, _touched(tmp_path / "built", now - 12.9 * _YEAR))
    assert not _later_time(mark, _touched(tmp_path / "built", now - 13.1 * _YEAR))


def test_without_a_mark_the_initramfs_leaves_the_clock_alone(tmp_path: Path, epoch: Path) -> None:
    assert _later_time(tmp_path / "none", epoch) == ""
    assert _later_time(_touched(tmp_path / "mark", time.time() + 1000), tmp_path / "none") == ""


def _later_time(mark: Path, built: Path) -> str:
    script = '. "$0"; later_time "$1" "$2"'
    command = ["sh", "-uc", script, str(_INITRAMFS / "darkpipe-clock"), str(mark), str(built)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert (done.returncode == 0) == bool(done.stdout)
    return done.stdout
