"""A finished folder gets to its place whole, or the reason is said."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest

from builder.build import publish
from builder.errors import BuildError


@pytest.fixture
def result(tmp_path: Path) -> Path:
    folder = tmp_path / "work/darkpipe-1"
    folder.mkdir(parents=True)
    (folder / "image").write_bytes(b"bits")
    return folder


def _on_another_file_system(monkeypatch: pytest.MonkeyPatch, work: Path) -> None:
    rename = os.rename

    def within_one(source: Path, target: Path) -> None:
        if Path(source).is_relative_to(work) != Path(target).is_relative_to(work):
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        rename(source, target)

    monkeypatch.setattr(os, "rename", within_one)


def test_it_goes_to_another_file_system(result: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _on_another_file_system(monkeypatch, result.parent)
    (tmp_path / "out").mkdir()
    assert (publish(result, tmp_path / "out") / "image").read_bytes() == b"bits"


def test_a_full_disk_is_said_in_a_few_words(result: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _on_another_file_system(monkeypatch, result.parent)

    def full(source: str, target: str) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), source, None, target)

    monkeypatch.setattr(shutil, "copy2", full)
    monkeypatch.setattr(shutil.move, "__defaults__", (full,))
    output = tmp_path / "out"
    output.mkdir()
    with pytest.raises(BuildError) as error:
        publish(result, output)
    assert str(error.value).startswith(f"{output / 'darkpipe-1'} cannot be written: No space left on device")
    assert list(output.iterdir()) == []
