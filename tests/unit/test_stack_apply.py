"""Bringing a configuration into force: whole, checked, and safe at every step."""

from __future__ import annotations

import itertools
import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from stack.apply import CURRENT, Applied, CheckError, Run, apply, current, run_check
from stack.render import File
from stack.stack import Stack
from tests.unit.power_cut import at_every_step
from tests.unit.stack_samples import OwnOwners, sample_stack

Files = Mapping[PurePosixPath, File]

OLD: Files = {PurePosixPath("one/main"): File(b"1"), PurePosixPath("two/deep/secret"): File(b"s", 0o640, "mail")}
NEW: Files = {PurePosixPath("one/main"): File(b"1"), PurePosixPath("two/other"): File(b"2")}


@pytest.fixture
def stack(tmp_path: Path) -> Stack:
    return sample_stack(tmp_path / "components", one=[["judge", "{config}/one"]])


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


def _yes(_: Sequence[str]) -> tuple[int, str]:
    return 0, ""


def _no(_: Sequence[str]) -> tuple[int, str]:
    return 3, "line 1: no such thing\n"


def _apply(stack: Stack, files: Files, store: Path, run: Run = _yes) -> Applied:
    return apply(stack, files, store, OwnOwners(), run)


def _content(folder: Path) -> dict[PurePosixPath, tuple[bytes, int]]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {
        PurePosixPath(path.relative_to(folder)): (path.read_bytes(), stat.S_IMODE(path.stat().st_mode))
        for path in files
    }


def _expected(files: Files) -> dict[PurePosixPath, tuple[bytes, int]]:
    return {path: (file.content, file.mode) for path, file in files.items()}


def test_the_first_one(stack: Stack, store: Path) -> None:
    assert current(store) is None
    applied = _apply(stack, OLD, store)
    assert applied.changed == ("one", "two")
    assert current(store) == applied.generation
    assert _content(store / CURRENT) == _expected(OLD)


def test_permissions_do_not_depend_on_the_umask(stack: Stack, store: Path) -> None:
    before = os.umask(0o077)
    try:
        _apply(stack, OLD, store)
    finally:
        os.umask(before)
    assert _content(store / CURRENT) == _expected(OLD)
    for folder in (store, store / CURRENT, store / CURRENT / "two/deep"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o755


def test_the_same_again_changes_nothing_and_asks_nobody(stack: Stack, store: Path) -> None:
    applied = _apply(stack, OLD, store)
    before = sorted(path.stat().st_ino for path in store.rglob("*"))
    assert _apply(stack, OLD, store, _no) == Applied(applied.generation, (), switched=False)
    assert sorted(path.stat().st_ino for path in store.rglob("*")) == before


def test_only_services_whose_files_changed_are_named(stack: Stack, store: Path) -> None:
    _apply(stack, OLD, store)
    assert _apply(stack, NEW, store).changed == ("two",)
    assert _apply(stack, {**NEW, PurePosixPath("one/main"): File(b"x")}, store).changed == ("one",)


def test_a_daemon_that_rereads_a_file_is_not_restarted_for_it(tmp_path: Path, store: Path) -> None:
    components = tmp_path / "components"
    sample_stack(components)
    description = components / "two/component.yaml"
    description.write_text(
        description.read_text().replace("name: two, check", "name: two, rereads: [two/deep/secret], check")
    )
    stack = Stack.load(components)
    _apply(stack, OLD, store)
    secret = PurePosixPath("two/deep/secret")
    applied = _apply(stack, {**OLD, secret: File(b"t", 0o640, "mail")}, store)
    assert (applied.changed, applied.switched) == ((), True)
    both = {**OLD, secret: File(b"u", 0o640, "mail"), PurePosixPath("two/other"): File(b"2")}
    assert _apply(stack, both, store).changed == ("two",)


def test_a_changed_file_has_another_time_also_within_one_second(stack: Stack, store: Path) -> None:
    """Size and whole seconds are all that Dovecot compares."""
    path = PurePosixPath("one/main")
    times = []
    for content in (b"1", b"2", b"1", b"3", b"4"):  # the third is a generation that is still there
        _apply(stack, {path: File(content)}, store)
        times.append(int((store / CURRENT / path).stat().st_mtime))
    assert all(before != after for before, after in itertools.pairwise(times)), times
    assert len({times[0], times[1], times[3], times[4]}) == 4, times


def test_a_change_of_the_mode_alone_is_a_change(stack: Stack, store: Path) -> None:
    _apply(stack, OLD, store)
    _apply(stack, {**OLD, PurePosixPath("one/main"): File(b"1", 0o640)}, store)
    assert stat.S_IMODE((store / CURRENT / "one/main").stat().st_mode) == 0o640


def test_the_previous_generation_stays_and_older_ones_go(stack: Stack, store: Path) -> None:
    names = [_apply(stack, {PurePosixPath("one/main"): File(text)}, store).generation for text in (b"a", b"b", b"c")]
    assert sorted(path.name for path in store.iterdir()) == sorted([CURRENT, *names[1:]])


def test_checks_see_the_whole_new_tree_while_the_old_one_is_in_force(stack: Stack, store: Path) -> None:
    old = _apply(stack, OLD, store).generation
    seen = []

    def judge(command: Sequence[str]) -> tuple[int, str]:
        seen.append((command[0], _content(Path(command[1]).parent), current(store)))
        return 0, ""

    _apply(stack, NEW, store, judge)
    assert seen == [("judge", _expected(NEW), old)]


def test_a_refused_one_leaves_the_old_in_force_and_says_why(stack: Stack, store: Path) -> None:
    old = _apply(stack, OLD, store).generation
    with pytest.raises(CheckError) as caught:
        _apply(stack, NEW, store, _no)
    assert current(store) == old
    assert _content(store / CURRENT) == _expected(OLD)
    text = str(caught.value)
    assert "line 1: no such thing" in text
    assert "Exit status 3" in text
    # The command in the text can be run again.
    command = text.splitlines()[-1].split()
    assert command[0] == "judge"
    assert Path(command[1]).is_dir()
    _apply(stack, OLD, store)
    assert sorted(path.name for path in store.iterdir()) == sorted([CURRENT, old])


def test_a_daemon_that_is_not_there_refuses_too() -> None:
    status, output = run_check(["/nonexistent/daemon"])
    assert status == 127
    assert "/nonexistent/daemon" in output


def test_what_a_check_prints_is_kept() -> None:
    assert run_check(["sh", "-c", "echo out; echo err >&2; exit 4"]) == (4, "out\nerr\n")


def test_a_power_cut_at_any_step_leaves_the_old_or_the_new_one(stack: Stack, store: Path) -> None:
    old = _apply(stack, OLD, store).generation
    cuts = 0
    for _ in at_every_step(lambda: _apply(stack, NEW, store)):
        cuts += 1
        assert _content(store / CURRENT) in (_expected(OLD), _expected(NEW))
        new = _apply(stack, NEW, store).generation
        assert _content(store / CURRENT) == _expected(NEW)
        # Whatever the cut has left is cleared away; then back, for the next step.
        _apply(stack, NEW, store)
        assert {path.name for path in store.iterdir()} <= {CURRENT, old, new}
        _apply(stack, OLD, store)
        (store / new / "one/main").unlink()
        (store / new / "two/other").unlink()
        for folder in ("one", "two", ""):
            (store / new / folder).rmdir()
    assert cuts > 10


def test_a_power_cut_while_an_old_one_goes_leaves_no_half_of_it_for_later(stack: Stack, store: Path) -> None:
    """Whoever goes back to it by one change would get what is left of it, which no daemon has judged."""
    newest: Files = {PurePosixPath("one/main"): File(b"3"), PurePosixPath("two/other"): File(b"3")}
    _apply(stack, OLD, store)
    _apply(stack, NEW, store)
    for number in at_every_step(lambda: _apply(stack, newest, store)):
        if _content(store / CURRENT) == _expected(newest):
            # Where a status looks for a configuration that a daemon has refused.
            assert not list(store.glob(".new-*")), f"step {number}"
        # The next start, and then the change.
        _apply(stack, NEW if _content(store / CURRENT) == _expected(NEW) else newest, store)
        _apply(stack, OLD, store)
        assert _content(store / CURRENT) == _expected(OLD), f"step {number}"
        _apply(stack, NEW, store)
        assert len(list(store.iterdir())) == 3


def test_a_power_cut_during_the_very_first_one(stack: Stack, tmp_path: Path) -> None:
    attempts = iter(range(1000))
    for number in at_every_step(lambda: _apply(stack, NEW, tmp_path / f"store-{next(attempts)}")):
        store = tmp_path / f"store-{number}"
        if current(store) is not None:
            assert _content(store / CURRENT) == _expected(NEW)
        _apply(stack, NEW, store)
        assert _content(store / CURRENT) == _expected(NEW)


def test_all_is_on_the_disk_before_it_comes_into_force(
    stack: Stack, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    switched_after: list[set[str]] = []
    fsync, rename = os.fsync, os.rename

    def watched_fsync(descriptor: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        fsync(descriptor)

    def watched_rename(source: Any, target: Any) -> None:
        if Path(target).name == CURRENT:
            switched_after.append(set(synced))
        rename(source, target)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(os, "rename", watched_rename)
    generation = _apply(stack, NEW, store).generation
    tree = f"{store}/.new-{generation}"
    needed = {tree, f"{tree}/one", f"{tree}/two", f"{tree}/one/main", f"{tree}/two/other", str(store)}
    assert needed <= switched_after[0]
    assert synced[-1] == str(store)
