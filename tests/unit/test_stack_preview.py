"""What an apply would change, told without changing it."""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

import pytest

from stack.apply import CheckError, Run, apply
from stack.preview import Preview, discard_leftover, preview
from stack.render import File
from stack.stack import Stack
from tests.unit.stack_samples import OwnOwners, sample_stack

Files = Mapping[PurePosixPath, File]

SECRET = PurePosixPath("two/secret")
MAIN = PurePosixPath("one/main.conf")
OLD: Files = {MAIN: File(b"a\nb\nc\n"), SECRET: File(b"{hash 1}\n", 0o640, "mail")}


@pytest.fixture
def stack(tmp_path: Path) -> Stack:
    return sample_stack(tmp_path / "components", one=[["judge", "{config}/one"]])


@pytest.fixture
def store(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    return tmp_path / "store"


@pytest.fixture
def scratch(store: Path) -> Path:
    return store.parent / "run/tried"


def _yes(_: Sequence[str]) -> tuple[int, str]:
    return 0, ""


@pytest.fixture
def in_force(stack: Stack, store: Path) -> Stack:
    apply(stack, OLD, store, OwnOwners(), _yes)
    return stack


def _preview(stack: Stack, files: Files, store: Path, run: Run = _yes) -> Preview:
    return preview(stack, files, store, store.parent / "run/tried", OwnOwners(), run)


def _snapshot(folder: Path) -> list[tuple[str, int, int, int]]:
    found = [(path, path.lstat()) for path in (folder, *folder.rglob("*"))]
    return sorted((str(path), status.st_ino, status.st_mode, status.st_mtime_ns) for path, status in found)


def test_change_is_a_unified_diff_and_names_the_service(in_force: Stack, store: Path, scratch: Path) -> None:
    found = _preview(in_force, {**OLD, MAIN: File(b"a\nB\nc\n")}, store)
    expected = "--- in force/one/main.conf\n+++ new/one/main.conf\n@@ -1,3 +1,3 @@\n a\n-b\n+B\n c\n"
    assert found == Preview((expected,), ("one",))
    assert not scratch.exists()


def test_secrets_are_never_shown(in_force: Stack, store: Path) -> None:
    found = _preview(in_force, {**OLD, SECRET: File(b"{hash 2}\n", 0o640, "mail")}, store)
    assert found == Preview(("two/secret: changes (a secret: its content is not shown)\n",), ("two",))
    gone = _preview(in_force, {MAIN: OLD[MAIN]}, store)
    assert gone.differences == ("two/secret: goes away (a secret: its content is not shown)\n",)
    # The next version may render the file for everybody: what was in the old one is a secret all the same.
    opened = _preview(in_force, {**OLD, SECRET: File(b"public\n")}, store)
    assert "hash 1" not in "".join(opened.differences)
    assert "mode 0640 becomes 0644" in opened.differences[0]


def test_files_come_and_go(in_force: Stack, store: Path) -> None:
    other = PurePosixPath("two/other")
    found = _preview(in_force, {SECRET: OLD[SECRET], other: File(b"x")}, store)
    assert found.differences == (
        "--- in force/one/main.conf\n+++ /dev/null\n@@ -1,3 +0,0 @@\n-a\n-b\n-c\n",
        "--- /dev/null\n+++ new/two/other\n@@ -0,0 +1 @@\n+x\n\\ No newline at end of file\n",
    )
    assert found.changed == ("one", "two")


def test_same_configuration_shows_nothing(in_force: Stack, store: Path) -> None:
    assert _preview(in_force, OLD, store) == Preview((), ())


def test_before_the_first_apply_all_is_new(stack: Stack, store: Path) -> None:
    assert _preview(stack, OLD, store).changed == ("one", "two")
    assert not store.exists()


def test_nothing_is_changed_though_the_checks_see_the_whole_tree(in_force: Stack, store: Path) -> None:
    seen = []
    before = _snapshot(store)
    new = {**OLD, MAIN: File(b"new\n")}

    def judge(command: Sequence[str]) -> tuple[int, str]:
        tree = Path(command[1]).parent
        seen.append({path: (tree / path).read_bytes() for path in new})
        return 0, ""

    _preview(in_force, new, store, judge)
    assert seen == [{path: file.content for path, file in new.items()}]
    assert _snapshot(store) == before


def test_refusal_is_told_and_leaves_nothing(in_force: Stack, store: Path, scratch: Path) -> None:
    before = _snapshot(store)
    with pytest.raises(CheckError, match="no such thing"):
        _preview(in_force, {MAIN: File(b"x")}, store, lambda _: (3, "line 1: no such thing"))
    assert _snapshot(store) == before
    assert not scratch.exists()


def test_leftover_of_a_killed_one_goes_with_the_next_call(in_force: Stack, store: Path, scratch: Path) -> None:
    def die() -> None:
        preview(in_force, OLD, store, scratch, OwnOwners(), lambda _: os._exit(9))

    for clear in (lambda: discard_leftover(scratch), lambda: _preview(in_force, OLD, store)):
        pid = os.fork()
        if pid == 0:
            die()
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9
        assert scratch.is_dir()
        clear()
        assert not scratch.exists()


def test_apply_leaves_the_tree_of_one_that_runs(in_force: Stack, store: Path, scratch: Path) -> None:
    def judge(_: Sequence[str]) -> tuple[int, str]:
        discard_leftover(scratch)
        assert (scratch / MAIN).is_file()
        apply(in_force, {MAIN: File(b"other")}, store, OwnOwners(), _yes)
        return 0, ""

    # Compared with what is in force in the end.
    assert "-other" in _preview(in_force, OLD, store, judge).differences[0]


def test_two_at_once_do_not_disturb_each_other(in_force: Stack, store: Path, scratch: Path) -> None:
    results: list[Preview] = []
    with scratch.with_name("tried.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        threads = [threading.Thread(target=lambda: results.append(_preview(in_force, OLD, store))) for _ in range(2)]
        for thread in threads:
            thread.start()
        assert not scratch.exists()
    for thread in threads:
        thread.join(20)
    assert results == [Preview((), ())] * 2
