"""The same image from another path, by another user, with another umask, time zone, locale, host name, core count.

Tools and package layer are shared, all behind them is made anew; `./dev test reproducible` is for the package layer.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.images.bench import SITE, Bench, new_bench, sums
from tests.images.elsewhere import USER, public_folder, run_as_other_user


@pytest.fixture
def bench(image: Path, tmp_path: Path) -> Iterator[Bench]:
    assert image.is_dir()
    with new_bench(tmp_path) as made:
        yield made


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that other users can reach, and that is theirs."""
    with public_folder() as folder:
        yield folder


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize(
    ("container", "options"),
    [(False, ["--all"]), (True, [])],
    ids=["ordinary user, all platforms", "root of a container"],
)
def test_conditions_do_not_matter(bench: Bench, public: Path, container: bool, options: list[str]) -> None:
    ours, made = bench.build("ours", options=options)
    assert "Project layer" in made
    theirs = _build_elsewhere(bench, public, container, options)
    if sums(ours) != sums(theirs):
        pytest.fail(bench.darkpipe("diff", str(ours), str(theirs)))


def _build_elsewhere(bench: Bench, public: Path, container: bool, options: list[str]) -> Path:
    """Build as a user that is there for this build only, who may not even see our files."""
    checkout = public / "a checkout, elsewhere"
    subprocess.run(["cp", "-R", bench.checkout, checkout], check=True)
    subprocess.run(["find", checkout, "-exec", "touch", "--no-dereference", "--date=2001-02-03", "{}", "+"], check=True)
    for folder in (bench.cache, bench.cache / "archive"):
        os.chown(folder, USER, USER)
    for kind in ("project", "tar", "root", "boot", "image", "work", "locks"):
        subprocess.run(["rm", "-rf", bench.cache / kind], check=True)
    (public / "site.yaml").write_text(SITE)
    words = ["builder", "build", "site.yaml", "--output", "out", *options]
    built = run_as_other_user(public, bench.cache, checkout, words, container=container)
    assert built.returncode == 0, built.stderr
    assert re.search(r"^Package layer: unchanged$", built.stderr, re.MULTILINE), built.stderr
    assert re.search(r"^Project layer: [0-9.]+ s$", built.stderr, re.MULTILINE), built.stderr
    return public / built.stdout.splitlines()[-1]
