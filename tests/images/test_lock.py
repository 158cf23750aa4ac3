"""Locked builds with the real archive."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.archive import Archive
from builder.cache import Cache
from builder.errors import BuildError
from builder.lock import Lock, read_lock
from builder.locked import gather
from builder.progress import Stages
from builder.sandbox import Sandbox
from builder.tools import BUILD_TOOLS, open_tools
from tests.images.machine import REPOSITORY

_SITE = str(REPOSITORY / "examples/home.yaml")


@pytest.fixture(scope="module")
def tools(image: Path) -> Sandbox:
    assert image.is_dir()
    return open_tools(BUILD_TOOLS, Cache.default(), Archive.from_environment(), Stages())


@pytest.fixture(scope="module")
def work() -> Iterator[Path]:
    """A folder that the tools see."""
    with Cache.default().workspace() as folder:
        yield folder


@pytest.fixture(scope="module")
def lock(image: Path) -> Lock:
    return read_lock(image / "packages.lock")


@pytest.fixture(scope="module")
def debs(lock: Lock, work: Path, tools: Sandbox) -> Path:
    """All packages of the image, fetched from the archive."""
    folder = work / "debs"
    folder.mkdir()
    gather(lock, folder, tools, Archive.from_environment(), None)
    return folder


def _build(output: Path, *options: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [str(REPOSITORY / "darkpipe"), "build", _SITE, "--output", str(output), *options]
    environment = {**os.environ, **variables}
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
    )


def test_lock_command_writes_what_the_image_has(image: Path, tmp_path: Path) -> None:
    target = tmp_path / "packages.lock"
    subprocess.run([str(REPOSITORY / "darkpipe"), "lock", "--output", str(target)], check=True, capture_output=True)
    assert target.read_text() == (image / "packages.lock").read_text()


def test_locked_build_from_a_folder_has_the_bits_of_the_ordinary_one(image: Path, debs: Path, tmp_path: Path) -> None:
    ordinary = _build(tmp_path / "ordinary")
    assert ordinary.returncode == 0, ordinary.stderr
    locked = _build(tmp_path / "locked", "--lock", str(image / "packages.lock"), "--packages", str(debs))
    assert locked.returncode == 0, locked.stderr
    sums = [Path(made.stdout.splitlines()[-1], "SHA256SUMS").read_text() for made in (ordinary, locked)]
    assert sums[0] == sums[1]


def test_why_knows_locked_layers_from_others(image: Path, lock: Lock, tmp_path: Path) -> None:
    """After a locked build, see above."""
    (tmp_path / "other.lock").write_text(_altered(lock, version="99:1-1").text())
    assert "is used again" in _why("--lock", str(image / "packages.lock"))
    other = _why("--lock", str(tmp_path / "other.lock"))
    assert "the next build makes it" in other
    assert "lock: has changed" in other
    assert "Debian's archive was looked at" in _why()


def _why(*options: str) -> str:
    command = [str(REPOSITORY / "darkpipe"), "why", "packages", *options]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def _altered(lock: Lock, **fields: str) -> Lock:
    first, *rest = lock.packages
    return lock.model_copy(update={"packages": (first.model_copy(update=fields), *rest)})


def test_a_version_that_is_not_there_is_named(lock: Lock, work: Path, tmp_path: Path) -> None:
    path = tmp_path / "packages.lock"
    path.write_text(_altered(lock, version="99:1-1").text())
    refused = _build(tmp_path / "out", "--lock", str(path))
    assert refused.returncode == 1, work
    assert f"{lock.packages[0].name} 99:1-1" in refused.stderr
    assert f"(it has {lock.packages[0].version})" in refused.stderr
    assert list((tmp_path / "out").iterdir()) == []


def test_other_bits_are_refused(lock: Lock, work: Path, tools: Sandbox) -> None:
    (work / "other").mkdir()
    with pytest.raises(BuildError, match="it has other bits"):
        gather(_altered(lock, sha256="0" * 64), work / "other", tools, Archive.from_environment(), None)


def test_a_mirror_that_lacks_a_package(lock: Lock, debs: Path, work: Path, tools: Sandbox) -> None:
    mirror = work / "mirror"
    shutil.copytree(debs, mirror)
    whole = Archive((f"deb [trusted=yes] copy://{tools.inside(mirror)} ./",))
    (work / "all").mkdir()
    gather(lock, work / "all", tools, whole, None)
    stanzas = (mirror / "Packages").read_text().split("\n\n")
    kept = [stanza for stanza in stanzas if not stanza.startswith("Package: postfix\n")]
    assert len(kept) == len(stanzas) - 1
    (mirror / "Packages").write_text("\n\n".join(kept))
    (mirror / "Release").unlink()  # its sum of the index
    (work / "less").mkdir()
    with pytest.raises(BuildError, match=r"postfix 3\.\S+ amd64 \(it has no version at all\)"):
        gather(lock, work / "less", tools, whole, None)


def test_packages_without_a_lock(debs: Path, tmp_path: Path) -> None:
    refused = _build(tmp_path, "--packages", str(debs))
    assert "--packages needs a lock" in refused.stderr
