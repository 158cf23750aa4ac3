"""Announcements reach every console that there is."""

from __future__ import annotations

from pathlib import Path

import pytest

from firstboot.console import announce


@pytest.fixture
def devices(tmp_path: Path) -> Path:
    folder = tmp_path / "dev"
    folder.mkdir()
    return folder


def _active(tmp_path: Path, names: str) -> Path:
    path = tmp_path / "active"
    path.write_text(f"{names}\n")
    return path


def test_the_screen_and_the_serial_line_both_get_it(tmp_path: Path, devices: Path) -> None:
    for name in ("tty0", "ttyS0", "console"):
        (devices / name).touch()
    assert announce("hello\n", _active(tmp_path, "tty0 ttyS0"), devices)
    texts = [(devices / name).read_text() for name in ("tty0", "ttyS0", "console")]
    assert texts == ["\nhello\n", "\nhello\n", ""]


def test_a_console_that_is_missing_does_not_keep_it_from_the_others(tmp_path: Path, devices: Path) -> None:
    (devices / "ttyS0").touch()
    assert announce("hello", _active(tmp_path, "tty0 ttyS0"), devices)
    assert (devices / "ttyS0").read_text() == "\nhello\n"


@pytest.mark.parametrize("names", ["tty0", ""])
def test_a_container_has_but_one(tmp_path: Path, devices: Path, names: str) -> None:
    (devices / "console").touch()
    assert announce("hello", _active(tmp_path, names), devices)
    assert (devices / "console").read_text() == "\nhello\n"


def test_it_says_when_nobody_could_be_told(tmp_path: Path, devices: Path) -> None:
    assert not announce("hello", _active(tmp_path, "tty0"), devices)


def test_a_device_that_takes_nothing_does_not_count(tmp_path: Path, devices: Path) -> None:
    (devices / "ttyS0").symlink_to("/dev/full")
    assert not announce("hello", _active(tmp_path, "ttyS0"), devices)
