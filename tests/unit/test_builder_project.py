"""The project layer's tar: the same bytes for the same files, and one tar behind another."""

from __future__ import annotations

import os
import subprocess
import tarfile
import tomllib
from pathlib import Path

from builder.tar import end_of_members, write_tar
from builder.version import VERSION

REPOSITORY = Path(__file__).resolve().parents[2]


def _tree(folder: Path, umask: int, mtime: int) -> Path:
    before = os.umask(umask)
    try:
        (folder / "b").mkdir(parents=True)
        (folder / "b/script").write_text("#!/bin/sh\n")
        (folder / "b/script").chmod(0o777 & ~umask)
        (folder / "a").write_text("text")
        (folder / "link").symlink_to("b/script")
        for path in folder.rglob("*"):
            os.utime(path, (mtime, mtime), follow_symlinks=False)
    finally:
        os.umask(before)
    return folder


def test_umask_times_and_path_do_not_matter(tmp_path: Path) -> None:
    first, second = tmp_path / "1.tar", tmp_path / "2.tar"
    write_tar(str(first), _tree(tmp_path / "one", 0o022, 1_000_000_000))
    write_tar(str(second), _tree(tmp_path / "other/place", 0o077, 1_700_000_000))
    assert first.read_bytes() == second.read_bytes()


def test_content_matters(tmp_path: Path) -> None:
    first, second = tmp_path / "1.tar", tmp_path / "2.tar"
    tree = _tree(tmp_path / "one", 0o022, 1_000_000_000)
    write_tar(str(first), tree)
    (tree / "a").write_text("texT")
    write_tar(str(second), tree)
    assert first.read_bytes() != second.read_bytes()


def test_members_belong_to_root(tmp_path: Path) -> None:
    path = tmp_path / "1.tar"
    write_tar(str(path), _tree(tmp_path / "one", 0o077, 1))
    with tarfile.open(path) as tar:
        modes = {member.name: (member.mode, member.uid, member.gid, member.uname) for member in tar}
    assert modes["./b/script"] == (0o755, 0, 0, "")
    assert modes["./a"] == (0o644, 0, 0, "")
    assert modes["./b"] == (0o755, 0, 0, "")


def test_a_second_tar_behind_the_first_wins(tmp_path: Path) -> None:
    """GNU tar unpacks the joined file; padding of GNU tar's record size does not hide the second."""
    (tmp_path / "old").mkdir()
    (tmp_path / "old/a").write_text("old")
    (tmp_path / "old/kept").write_bytes(b"k" * 513)
    first, second, joined = tmp_path / "1.tar", tmp_path / "2.tar", tmp_path / "3.tar"
    subprocess.run(["tar", "-C", str(tmp_path / "old"), "-cf", str(first), "."], check=True)
    write_tar(str(second), _tree(tmp_path / "new", 0o022, 1))
    joined.write_bytes(first.read_bytes()[: end_of_members(first)] + second.read_bytes())
    (tmp_path / "out").mkdir()
    subprocess.run(["tar", "-C", str(tmp_path / "out"), "-xf", str(joined)], check=True)
    assert (tmp_path / "out/a").read_text() == "text"
    assert (tmp_path / "out/kept").stat().st_size == 513
    assert os.access(tmp_path / "out/b/script", os.X_OK)


def test_version_is_the_same_everywhere() -> None:
    assert tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["version"] == VERSION
