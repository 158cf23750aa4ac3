"""Python libraries for device and relay: what the lock says, or nothing."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from builder import wheels
from builder.cache import Cache
from builder.digests import file_digest
from builder.errors import BuildError
from builder.wheels import Wheel, lock_text, locked_wheels, unpack, wheel_files
from tests.locks import DEVELOPERS, read_lock, wheel_problems


def _wheel(folder: Path, name: str = "pyrage", text: str = "1") -> Wheel:
    path = folder / f"{name}-1.whl"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(f"{name}/__init__.py", text)
    return Wheel(name=name, version="1", architecture="amd64", file=path.name, sha256=file_digest(path))


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


def _lock(monkeypatch: pytest.MonkeyPatch, folder: Path, *which: Wheel) -> None:
    (folder / "wheels.lock").write_text(lock_text(which))
    read = locked_wheels(folder / "wheels.lock")
    monkeypatch.setattr(wheels, "locked_wheels", lambda: read)


def test_files_of_a_folder_are_known_by_their_digests(
    tmp_path: Path, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = _wheel(tmp_path)
    _lock(monkeypatch, tmp_path, one)
    (tmp_path / one.file).rename(tmp_path / "renamed.whl")
    found = wheel_files(cache, tmp_path)
    assert file_digest(found / one.file) == one.sha256
    (tmp_path / "renamed.whl").unlink()
    assert wheel_files(cache, tmp_path) == found, "what the cache has is not asked for again"
    unpack([one], found, tmp_path / "out")
    assert (tmp_path / "out/pyrage/__init__.py").read_text() == "1"


def test_another_file_of_the_same_name_is_refused(
    tmp_path: Path, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    _lock(monkeypatch, tmp_path, _wheel(tmp_path))
    _wheel(tmp_path, text="2")
    with pytest.raises(BuildError, match=r"does not have pyrage-1\.whl"):
        wheel_files(cache, tmp_path)


def test_what_was_fetched_is_compared_with_the_lock(
    tmp_path: Path, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    _lock(monkeypatch, tmp_path, _wheel(tmp_path))
    monkeypatch.setattr(wheels, "_download", lambda _, folder: _wheel(folder, text="2"))
    with pytest.raises(BuildError, match=r"pyrage-1\.whl is not what wheels\.lock says"):
        wheel_files(cache)
    assert cache.entries() == []


def test_a_lock_that_names_a_path_is_none(tmp_path: Path) -> None:
    text = lock_text([_wheel(tmp_path)]).replace("pyrage-1.whl", "../pyrage.whl")
    (tmp_path / "wheels.lock").write_text(text)
    with pytest.raises(BuildError, match="is no lock of wheels"):
        locked_wheels(tmp_path / "wheels.lock")


def test_the_lock_has_what_the_developers_test_with() -> None:
    pins = read_lock(DEVELOPERS.read_text())
    assert wheel_problems(locked_wheels(), pins) == []
    older = [wheel.model_copy(update={"version": "0.1"}) for wheel in locked_wheels()[1:]]
    found = wheel_problems(older, pins)
    assert len(found) == 4
    assert any("has no obstore for amd64" in problem for problem in found)
