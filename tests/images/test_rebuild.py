"""What a build makes and what it takes from the cache: after a change, beside another build, after a kill."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.sandbox import remove_tree
from builder.workshop import Stage
from tests.images.bench import SITE, Bench, finish, new_bench, sums


def _titles(*stages: Stage) -> list[str]:
    return [stage.label for stage in stages]


@pytest.fixture(scope="module")
def bench(image: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """A bench with tools and a package layer, and the latter of what Debian has published by now."""
    assert image.is_dir()
    with new_bench(tmp_path_factory.mktemp("rebuild")) as made:
        # Another profile's build may have seen the archive after the one that made our package layer.
        made.build("first")
        for stage in _PROJECT:
            remove_tree(made.cache / stage)
        yield made


_PROJECT = (Stage.PROJECT, Stage.TAR, Stage.ROOT, Stage.BOOT, Stage.IMAGE)


def test_what_a_change_makes_anew(bench: Bench) -> None:
    _, made = bench.build("first")
    assert made == _titles(*_PROJECT), "tools and packages were there"
    _, made = bench.build("first")
    assert made == _titles(Stage.IMAGE)
    changed = SITE.replace("alice", "anna")
    _, made = bench.build("site", changed)
    assert made == _titles(Stage.IMAGE), "a changed site is a changed boot partition and nothing else"
    assert "site.yaml: users has changed" in bench.darkpipe("why", "image", str(bench.folder / "first.yaml"))

    source = bench.checkout / "home/__init__.py"
    source.write_text(source.read_text() + "\nCHANGED = True\n")
    assert "home/__init__.py has changed" in bench.darkpipe("why", "project")
    assert "darkpipe why project" in bench.darkpipe("why", "root")
    _, made = bench.build("code")
    assert made == _titles(*_PROJECT), "changed code leaves the package layer"
    assert "home/__init__.py has changed" in bench.darkpipe("why", "project")

    hook = bench.checkout / "components/base/package-hook.sh"
    text = hook.read_text()
    hook.write_text(text + "# another\n")
    assert "hooks: base has changed" in bench.darkpipe("why", "packages")
    hook.write_text(text)
    assert bench.leftovers() == []


def test_two_builds_at_once(bench: Bench) -> None:
    """Of different sites and of the same, from a cache that lacks all but the packages: each is as if it were alone."""
    other = SITE.replace("alice", "anna")
    expected = [sums(bench.build(name, site)[0]) for name, site in (("one", SITE), ("two", other))]
    for stage in _PROJECT:
        remove_tree(bench.cache / stage)
    running = [bench.start("p1"), bench.start("p2", other), bench.start("p3")]
    results = [finish(process) for process in running]
    assert [sums(result) for result, _ in results] == [expected[0], expected[1], expected[0]]
    entries = json.loads(bench.darkpipe("cache", "list", "--json"))["entries"]
    made = sorted(entry["kind"] for entry in entries if entry["kind"] in {"project", "tar", "root", "boot"})
    assert made == ["boot", "project", "root", "tar"], "each stage was made once"
    assert bench.leftovers() == []


@pytest.mark.parametrize("stage", _PROJECT)
def test_killed_build_resumes(bench: Bench, stage: Stage) -> None:
    """SIGKILL, as the kernel does it when memory runs out: the tools end too, and the next build sweeps and goes on."""
    for later in _PROJECT[_PROJECT.index(stage) :]:
        if (bench.cache / later).exists():
            remove_tree(bench.cache / later)
    process = bench.start("killed")
    assert process.stderr
    for line in process.stderr:
        if line.startswith(f"{stage.label} …"):
            break
    process.kill()
    process.wait()
    process.stderr.close()
    assert process.stdout
    process.stdout.close()
    _, made = bench.build("killed")
    allowed = _titles(*_PROJECT[_PROJECT.index(stage) :])
    # What was killed may have been finished in the same moment.
    assert made in (allowed, allowed[1:] or allowed), made
    assert bench.leftovers() == []
    assert [path.name for path in (bench.folder / "killed").iterdir() if path.name.startswith(".")] == []


def test_prune_while_a_build_runs(bench: Bench) -> None:
    """What it has found or made stays until its end; what nobody uses goes."""
    expected = sums(bench.build("pruned")[0])
    for stage in _PROJECT:
        remove_tree(bench.cache / stage)
    process = bench.start("pruned")
    assert process.stderr
    for line in process.stderr:
        if line.startswith(f"{Stage.PROJECT.label} …"):
            break
    while process.poll() is None:
        bench.darkpipe("cache", "prune", "--all")
    result, _ = finish(process)
    assert sums(result) == expected


def test_prune_makes_the_cache_smaller(bench: Bench) -> None:
    before = json.loads(bench.darkpipe("cache", "list", "--json"))
    removed = json.loads(bench.darkpipe("cache", "prune", "--all", "--json"))
    assert removed["bytes"] == before["bytes"]
    assert json.loads(bench.darkpipe("cache", "list", "--json"))["entries"] == []
