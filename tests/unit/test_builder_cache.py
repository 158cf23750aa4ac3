"""The cache: whole entries or none, ids that follow from inputs, rubbish of killed builds removed."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from builder.cache import KEEP_VARIABLE, Cache, Entry
from builder.digests import content_id, tree_digests
from builder.errors import BuildError
from builder.eviction import DEFAULT_LIMIT, SIZE_VARIABLE, limit_from_environment, parse_size, shrink


def test_id_depends_on_content_and_not_on_order() -> None:
    assert content_id({"a": 1, "b": [2]}) == content_id({"b": [2], "a": 1})
    assert content_id({"a": 1}) != content_id({"a": "1"})


def _fill(folder: Path) -> None:
    (folder / "file").write_text("x" * 10_000)


def test_produce_makes_an_entry_once(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    made: list[Path] = []

    def make(folder: Path) -> None:
        made.append(folder)
        _fill(folder)

    entry = cache.produce("kind", "Name", {"a": 1}, make)
    assert cache.produce("kind", "Name", {"a": 1}, make) == entry == cache.find("kind", content_id({"a": 1}))
    assert len(made) == 1
    assert (entry / "file").is_file()


def test_entry_keeps_its_inputs(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    folder = cache.produce("kind", "Name", {"a": [1, "x"]}, _fill)
    [entry] = cache.entries()
    assert (entry.folder, entry.kind, entry.name, entry.inputs) == (folder, "kind", "Name", {"a": [1, "x"]})
    assert entry.identifier == content_id({"a": [1, "x"]})
    assert entry.size >= 10_000
    assert entry.made <= entry.used <= time.time()


def test_what_making_finds_out_is_part_of_the_id(tmp_path: Path) -> None:
    """Two states of an archive are two entries; the older one stays for whoever uses it."""
    cache = Cache(tmp_path)
    first = cache.produce("kind", "Name", {"a": 1}, lambda _: {"archive": "one"})
    second = cache.produce("kind", "Name", {"a": 1}, lambda _: {"archive": "two"})
    again = cache.produce("kind", "Name", {"a": 1}, lambda _: {"archive": "one"})
    assert first == again != second
    assert first.name == content_id({"a": 1, "archive": "one"})
    assert list((tmp_path / "work").iterdir()) == list((tmp_path / "locks").iterdir()) == []


def _fill_many(folder: Path) -> None:
    for name in ("root.tar", "digest"):
        (folder / name).write_text(f"all of {name}")
    (folder / "boot").mkdir()


@pytest.mark.parametrize("name", ["root.tar", "digest", "inputs.json"])
def test_what_a_power_cut_has_emptied_is_made_anew(tmp_path: Path, name: str) -> None:
    """A file system may keep names and lose what was written last (ext4(5), delalloc)."""
    entry = Cache(tmp_path).produce("kind", "Name", {"a": 1}, _fill_many)
    for cut in ("", "half"):
        (entry / name).write_text(cut)
        cache = Cache(tmp_path)
        assert cache.find("kind", entry.name) is None
        assert cache.produce("kind", "Name", {"a": 1}, _fill_many) == entry == cache.find("kind", entry.name)
        assert (entry / "root.tar").read_text() == "all of root.tar"
        assert [found.inputs for found in cache.entries()] == [{"a": 1}]
        cache.release()
    assert list((tmp_path / "work").iterdir()) == []


def test_a_record_that_is_none_can_be_listed_and_goes(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    entry = cache.produce("kind", "Name", {"a": 1}, _fill)
    cache.release()
    for text in ("{}", "[1]", ""):
        (entry / "inputs.json").write_text(text)
        (found,) = cache.entries()
        assert "damaged" in found.name
    assert cache.evict(found)


def test_failure_leaves_nothing(tmp_path: Path) -> None:
    cache = Cache(tmp_path)

    def fail(folder: Path) -> None:
        (folder / "half").write_text("x")
        raise RuntimeError("tool failed")

    with pytest.raises(RuntimeError):
        cache.produce("kind", "Name", {}, fail)
    assert cache.find("kind", content_id({})) is None
    assert list((tmp_path / "work").iterdir()) == []


def test_workspace_of_a_failure_is_kept_on_demand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = Cache(tmp_path)

    def fail(folder: Path) -> None:
        (folder / "half").write_text("x")
        raise RuntimeError("tool failed")

    monkeypatch.setenv(KEEP_VARIABLE, "1")
    with pytest.raises(RuntimeError):
        cache.produce("kind", "Name", {}, fail)
    assert [path.read_text() for path in tmp_path.glob("work/*/entry/half")] == ["x"]
    assert cache.find("kind", content_id({})) is None
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

    Cache(root).produce("kind", "Name", {}, make)


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
    with Cache(tmp_path).workspace():
        assert (left / "left").exists(), "its build still runs"
    process.kill()
    process.wait()
    process.stdout.close()
    with Cache(tmp_path).workspace() as work:
        assert [*(tmp_path / "work").iterdir()] == [work]
        assert not list(work.iterdir())[1:]
    assert list((tmp_path / "work").iterdir()) == []


def _three(root: Path) -> tuple[Cache, list[Entry]]:
    """A cache with three entries of the same size, last used in the order in which they were made."""
    maker = Cache(root)
    for number in range(3):
        folder = maker.produce("kind", f"Number {number}", {"number": number}, _fill)
        os.utime(folder / "inputs.json", (number + 1, number + 1))
    maker.release()
    return Cache(root), maker.entries()


def _names(cache: Cache) -> list[str]:
    return [entry.name for entry in cache.entries()]


def test_least_recently_used_goes_first(tmp_path: Path) -> None:
    cache, entries = _three(tmp_path)
    cache.find("kind", entries[0].identifier)
    cache.release()
    assert [entry.name for entry in shrink(cache, 2 * entries[0].size, dry_run=True)] == ["Number 1"]
    assert len(_names(cache)) == 3
    assert [entry.name for entry in shrink(cache, 2 * entries[0].size)] == ["Number 1"]
    assert _names(cache) == ["Number 2", "Number 0"]
    assert shrink(cache, 2 * entries[0].size) == []
    assert list((tmp_path / "work").iterdir()) == []


def test_what_a_running_build_uses_is_never_evicted(tmp_path: Path) -> None:
    cache, entries = _three(tmp_path)
    builder = Cache(tmp_path)
    used = builder.find("kind", entries[0].identifier)
    assert used
    assert [entry.name for entry in shrink(cache, 0)] == ["Number 1", "Number 2"]
    assert not cache.evict(entries[0])
    assert (used / "file").is_file()
    builder.release()
    assert [entry.name for entry in shrink(cache, 0)] == ["Number 0"]
    assert cache.entries() == []


def test_entry_of_an_older_version_goes_too(tmp_path: Path) -> None:
    folder = tmp_path / "kind" / content_id({})
    folder.mkdir(parents=True)
    _fill(folder)
    cache = Cache(tmp_path)
    assert cache.find("kind", folder.name) is None
    assert [entry.folder for entry in shrink(cache, 0)] == [folder]
    assert not folder.exists()


_CHURN = """
import pathlib, sys
from builder.cache import Cache
from builder.eviction import shrink
root, mode = pathlib.Path(sys.argv[1]), sys.argv[2]
for round in range(150):
    cache = Cache(root)
    if mode == "evict":
        shrink(cache, 0)
        continue
    entry = cache.produce("kind", "Name", {"n": round % 3}, lambda made: (made / "file").write_text("x") and None)
    assert (entry / "file").read_text() == "x"
    cache.release()
"""


def test_builds_and_evictions_at_once(tmp_path: Path) -> None:
    """Whatever an eviction does between two steps of a build, the build has its entry."""
    modes = ("build", "build", "evict")
    processes = [subprocess.Popen([sys.executable, "-c", _CHURN, str(tmp_path), mode]) for mode in modes]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    assert list((tmp_path / "work").iterdir()) == list((tmp_path / "locks").iterdir()) == []


@pytest.mark.parametrize(("text", "size"), [("12G", 12 * 10**9), ("500 MB", 5 * 10**8), ("0", 0), ("7k", 7000)])
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text, "--size") == size


@pytest.mark.parametrize("text", ["", "-1", "1.5G", "G", "12 GiB", "lots"])
def test_wrong_sizes_are_refused(text: str) -> None:
    with pytest.raises(BuildError, match="--size"):
        parse_size(text, "--size")


def test_limit_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SIZE_VARIABLE, raising=False)
    assert limit_from_environment() == DEFAULT_LIMIT
    monkeypatch.setenv(SIZE_VARIABLE, "3G")
    assert limit_from_environment() == 3 * 10**9


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
