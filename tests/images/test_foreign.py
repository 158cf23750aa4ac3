"""A root file system for arm64 is the same however its programs were run, and whoever has installed it."""

from __future__ import annotations

import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from builder.archive import SUITE, Archive
from builder.cache import Cache
from builder.foreign import FOREIGN_TOOLS, Way, prepare
from builder.progress import Stages
from builder.sandbox import Sandbox, remove_tree
from builder.tools import host_architecture, open_tools
from tests.foreign.minimal import install_minimal
from tests.images.bench import new_bench
from tests.images.elsewhere import USER, public_folder, run_as_other_user
from tests.reproducible.command import differing_members

pytestmark = pytest.mark.skipif(host_architecture() != "amd64", reason="only there it is another processor's")


@pytest.fixture(scope="module")
def tools() -> Sandbox:
    cache = Cache(Cache.default().root, remove_tree)
    return open_tools(FOREIGN_TOOLS, cache, Archive.from_environment(), Stages())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_minimal_system_is_the_same_in_both_ways_and_for_both_users(tools: Sandbox, tmp_path: Path) -> None:
    """With this computer's programs by an ordinary user, and plainly emulated by root."""
    with ThreadPoolExecutor() as pool, public_folder() as public, new_bench(tmp_path) as bench:
        emulated = pool.submit(install_minimal, tools.tree, Way.EMULATED, tmp_path / "emulated")
        checkout = public / "checkout"
        subprocess.run(["cp", "-R", bench.checkout, checkout], check=True)
        subprocess.run(["cp", "-R", Path(__file__).parents[1], checkout / "tests"], check=True)
        os.chown(bench.cache, USER, USER)
        # The tree is shown to the other user below the cache.
        tree = public / "cache" / tools.tree.relative_to(Cache.default().root)
        words = ["tests.foreign.minimal", str(tree), Way.NATIVE_TOOLS]
        done = run_as_other_user(public, bench.cache, checkout, words)
        assert done.returncode == 0, done.stderr
        native = Path(done.stdout.splitlines()[-1])
        assert differing_members(native.parent, emulated.result().parent) == []
        # The comparison itself: one octet more in one file.
        planted = tmp_path / "planted"
        planted.mkdir()
        (tmp_path / "etc").mkdir()
        (tmp_path / "etc/issue").write_text("planted\n")
        subprocess.run(["cp", native, planted / "root.tar"], check=True)
        subprocess.run(["tar", "--append", "--file", planted / "root.tar", "-C", tmp_path, "./etc/issue"], check=True)
        assert any("./etc/issue: content" in line for line in differing_members(native.parent, planted))


def test_another_version_of_a_program_does_not_stand_in(tools: Sandbox) -> None:
    """What is installed decides, not what this computer has: a program of another version is emulated."""
    cache = Cache(Cache.default().root, remove_tree)
    with cache.workspace() as work:
        across = prepare(tools, work)
        (work / "native/mawk/version").write_text("0")
        programs = ("mawk", "sed")
        assert all((work / "native" / name / "root/usr/bin" / name).is_file() for name in programs)
        check = ' && test ! -e "$1/.native/usr/bin/mawk" && test -x "$1/.native/usr/bin/sed"'
        bind = next(option for option in across.options if option.startswith("--extract-hook="))
        options = [*across.options, "--variant=custom", "--mode=root", "--format=null", "--arch=arm64"]
        options[across.options.index(bind)] = bind + check
        tools.run(
            [*across.prefix, "mmdebstrap", *options, *across.last_hook, SUITE, "-", *Archive.from_environment().mirrors]
        )
