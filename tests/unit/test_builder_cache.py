"""The cache: whole entries or none, ids that follow from inputs, rubbish of killed builds removed."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from builder.cache import KEEP_VARIABLE, Cache, content_id, tree_digests


def test_id_depends_on_content_and_not_on_order() -> None:
    assert content_id({"a": 1, "b": [2]}) == content_id({"b": [2], "a": 1})
    assert content_id({"a": 1}) != content_id({"a": "1"})


def test_produce_makes_an_entry_once(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    made: list[Path] = []

    def make(folder: Path) -> None:
        made.append(folder)
        (folder / "file").write_text("x")

    entry = cache.produce("kind", "id", make)
    assert cache.produce("kind", "id", make) == entry == cache.find("kind", "id")
    assert len(made) == 1
    assert (entry / "file").read_text() == "x"


def test_replacing_keeps_the_old_entry_until_the_new_one_is_there(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    entry = cache.produce("kind", "id", lambda folder: (folder / "file").touch())

    def fail(_: Path) -> None:
        raise RuntimeError("the archive cannot be reached")

    with pytest.raises(RuntimeError):
        cache.produce("kind", "id", fail, replace=True)
    assert [path.name for path in entry.iterdir()] == ["file"]
    assert cache.produce("kind", "id", lambda folder: (folder / "new").touch(), replace=True) == entry
    assert [path.name for path in entry.iterdir()] == ["new"]
    assert list((tmp_path / "work").iterdir()) == []


def test_failure_leaves_nothing(tmp_path: Path) -> None:
    cache = Cache(tmp_path)

    def fail(folder: Path) -> None:
        (folder / "half").write_text("x")
        raise RuntimeError("tool failed")

    with pytest.raises(RuntimeError):
        cache.produce("kind", "id", fail)
    assert cache.find("kind", "id") is None
    assert list((tmp_path / "work").iterdir()) == []


def test_workspace_of_a_failure_is_kept_on_demand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = Cache(tmp_path)

    def fail(folder: Path) -> None:
        (folder / "half").write_text("x")
        raise RuntimeError("tool failed")

    monkeypatch.setenv(KEEP_VARIABLE, "1")
    with pytest.raises(RuntimeError):
        cache.produce("kind", "id", fail)
    assert [path.read_text() for path in tmp_path.glob("work/*/entry/half")] == ["x"]
    assert cache.find("kind", "id") is None
    for left in (tmp_path / "work").iterdir():
        os.utime(left, (1, 1))
    monkeypatch.delenv(KEEP_VARIABLE)
    with cache.workspace():
        assert list(tmp_path.glob("work/*/entry/half")) == []


def _produce_slowly(root: Path) -> None:
    def make(_: Path) -> None:
        with (root / "calls").open("a") as calls:
            calls.write("x")
        time.sleep(0.3)

    Cache(root).produce("kind", "id", make)


def test_two_builds_of_the_same_entry_wait_for_one_another(tmp_path: Path) -> None:
    processes = [multiprocessing.Process(target=_produce_slowly, args=(tmp_path,)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert (tmp_path / "calls").read_text() == "x"


_KILLED = """
import pathlib, sys, time
from builder.cache import Cache
with Cache(pathlib.Path(sys.argv[1])).workspace() as work:
    (work / "left").write_text("x")
    print(work, flush=True)
    time.sleep(60)
"""


def test_workspace_of_a_killed_build_is_swept_and_of_a_running_one_is_not(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", _KILLED, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    left = Path(process.stdout.readline().strip())
    old = time.time() - 3600
    os.utime(left, (old, old))
    with Cache(tmp_path).workspace():
        assert (left / "left").exists(), "its build still runs"
    process.kill()
    process.wait()
    process.stdout.close()
    with Cache(tmp_path).workspace():
        assert not left.exists()


def test_tree_digests_see_content_names_modes_and_links(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "file").write_text("a")
    seen = [tree_digests(tree)]
    (tree / "file").write_text("b")
    seen.append(tree_digests(tree))
    (tree / "file").chmod(0o755)
    seen.append(tree_digests(tree))
    (tree / "link").symlink_to("file")
    seen.append(tree_digests(tree))
    assert len({str(digests) for digests in seen}) == len(seen)
