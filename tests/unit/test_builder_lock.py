"""Locks against what an archive, a folder and a version of ours have; tests/images uses the real archive."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

import pytest

from builder.archive import Archive
from builder.errors import BuildError
from builder.lock import Lock, LockedPackage
from builder.locked import _check_available, check_fit, check_installed, gather
from builder.sandbox import Sandbox

_CONTENTS = {"a": b"package a", "b": b"package b"}


class _Tools(Sandbox):
    """Runs nothing: the index is the tools' work."""

    def run(
        self,
        argv: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        stdin: IO[bytes] | None = None,
        stdout: IO[bytes] | None = None,
        on_line: object = None,
        scratch: Path | None = None,
    ) -> str:
        assert "index" in argv, (environment, stdin, stdout, on_line, scratch)
        return ""


def _package(name: str, **fields: object) -> LockedPackage:
    content = _CONTENTS[name]
    facts = {
        "name": name,
        "version": "1:2-3",
        "architecture": "amd64",
        "sha256": hashlib.sha256(content).hexdigest(),
        "bytes": len(content),
        "source": name,
    }
    return LockedPackage.model_validate(facts | fields)


@pytest.fixture
def lock() -> Lock:
    packages = (_package("a"), _package("b"))
    return Lock(profile="x64", suite="trixie", architecture="amd64", packages=packages)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "debs"
    made.mkdir()
    for name, content in _CONTENTS.items():
        (made / f"{name}_1%3a2-3_amd64.deb").write_bytes(content)
    return made


def _gather(lock: Lock, tmp_path: Path, folder: Path) -> str:
    target = tmp_path / "cache/folder/debs"
    target.mkdir(parents=True)
    return gather(lock, target, _Tools(tmp_path, tmp_path / "cache"), Archive(), folder)


def test_packages_are_taken_from_a_folder_by_their_digest(lock: Lock, folder: Path, tmp_path: Path) -> None:
    (folder / "a_1%3a2-3_amd64.deb").rename(folder / "renamed.deb")
    (folder / "other.deb").write_bytes(b"of no interest")
    assert _gather(lock, tmp_path, folder) == "deb [trusted=yes] copy:///cache/folder/debs ./"
    assert {path.read_bytes() for path in (tmp_path / "cache/folder/debs").iterdir()} == set(_CONTENTS.values())


def test_a_file_that_was_tampered_with_is_refused_by_name(lock: Lock, folder: Path, tmp_path: Path) -> None:
    (folder / "b_1%3a2-3_amd64.deb").write_bytes(b"package B")
    with pytest.raises(BuildError, match=r"b 1:2-3 amd64 \(the file of that name has another sha256\)") as caught:
        _gather(lock, tmp_path, folder)
    assert "a 1:2-3" not in str(caught.value)


def test_a_missing_file_is_named(lock: Lock, folder: Path, tmp_path: Path) -> None:
    (folder / "a_1%3a2-3_amd64.deb").unlink()
    with pytest.raises(BuildError, match=r"does not have \n  a 1:2-3 amd64$"):
        _gather(lock, tmp_path, folder)


def test_what_the_archive_lacks_or_has_in_other_bits_is_named(lock: Lock) -> None:
    row = "Package: {}\nVersion: {}\nArchitecture: amd64\nSHA256: {}\n\n"
    good = row.format("a", "1:2-3", lock.packages[0].sha256)
    _check_available(lock, good + row.format("b", "1:2-3", lock.packages[1].sha256))
    with pytest.raises(BuildError, match=r"b 1:2-3 amd64 \(it has 1:2-4\)"):
        _check_available(lock, good + row.format("b", "1:2-4", "0" * 64))
    with pytest.raises(BuildError, match=r"b 1:2-3 amd64 \(it has no version at all\)"):
        _check_available(lock, good)
    with pytest.raises(BuildError, match=r"b 1:2-3 amd64 with the lock's sha256 \(it has other bits\)"):
        _check_available(lock, good + row.format("b", "1:2-3", "0" * 64))


def test_a_lock_for_something_else_is_refused(lock: Lock) -> None:
    check_fit(lock, "x64", "amd64", ["a"])
    with pytest.raises(BuildError, match="the lock is for x64 amd64 trixie; this build is for pi arm64 trixie"):
        check_fit(lock, "pi", "arm64", [])
    with pytest.raises(BuildError, match="does not have what this version asks for: c"):
        check_fit(lock, "x64", "amd64", ["a", "c"])


def test_a_lock_with_more_than_is_needed_is_refused(lock: Lock) -> None:
    check_installed(lock, lock.packages)
    with pytest.raises(BuildError, match="nothing asks for: b"):
        check_installed(lock, lock.packages[:1])
