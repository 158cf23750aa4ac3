"""Disks with an MBR, whose tables the real sfdisk has made, as the builder plans and `./darkpipe diff` reads them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.archive import Archive
from builder.cache import Cache
from builder.compare.layout import Images
from builder.compare.mbr import mbr_regions, read_mbr
from builder.compare.reader import Reader
from builder.compare.regions import differing_ranges
from builder.disk import disk_size, place, table_script
from builder.profile import load_profile
from builder.progress import Stages
from builder.root import Root
from builder.sandbox import Sandbox, remove_tree
from builder.tools import BUILD_TOOLS, open_tools

PROFILE = load_profile(Path(__file__).resolve().parents[2] / "profiles/raspberrypi")
ROOT = Root(Path("/nowhere"), "4f0c" * 16, 4096)


@pytest.fixture(scope="module")
def tools() -> Sandbox:
    return open_tools(BUILD_TOOLS, _cache(), Archive.from_environment(), Stages())


def _cache() -> Cache:
    return Cache(Cache.default().root, remove_tree)


@pytest.fixture
def disk(tools: Sandbox) -> Iterator[Path]:
    with _cache().workspace() as work:
        path, script = work / "disk.img", work / "script"
        with path.open("wb") as file:
            file.truncate(disk_size(PROFILE))
        script.write_text(table_script(PROFILE, ROOT))
        with script.open("rb") as stream:
            tools.run(["sfdisk", "--quiet", "--no-reread", tools.inside(path)], stdin=stream)
        yield path


@pytest.fixture
def reader(disk: Path) -> Iterator[Reader]:
    descriptor = os.open(disk, os.O_RDONLY)
    yield Reader(descriptor, 0, disk.stat().st_size)
    os.close(descriptor)


def test_the_table_is_as_it_was_planned(disk: Path, reader: Reader, tools: Sandbox) -> None:
    found = [(int(row.label), row.start, row.end) for row in read_mbr(reader)]
    assert found == [(row.number, row.start, row.end) for row in place(PROFILE)]
    assert "No errors detected" in tools.run(["sfdisk", "--verify", tools.inside(disk)])


def test_every_difference_of_the_table_is_named(disk: Path, tmp_path: Path, reader: Reader) -> None:
    regions = {region.name for region in mbr_regions(reader)}
    assert {"partition table, disk identifier", "partition table of partition 8, entry 1"} <= regions
    other = tmp_path / "other.img"
    subprocess.run(["cp", "--sparse=always", disk, other], check=True)
    data_sector = place(PROFILE)[-1].start - 2**20
    for at, name in ((440, "disk identifier"), (446 + 4, "entry 1"), (data_sector + 446 + 4, "partition 8, entry 1")):
        with other.open("r+b") as file:
            file.seek(at)
            before = file.read(1)
            file.seek(at)
            file.write(bytes([before[0] ^ 1]))
        images = Images((disk, other))
        (difference,) = images.map().split(differing_ranges(disk, other))
        images.close()
        assert name in difference.region.name
        with other.open("r+b") as file:
            file.seek(at)
            file.write(before)


def test_a_chain_without_end_is_refused(disk: Path, reader: Reader) -> None:
    extended = place(PROFILE)[3].start - 2**20
    with disk.open("r+b") as file:
        file.seek(extended + 446 + 16 + 8)
        file.write(bytes(4))
    with pytest.raises(ValueError, match="no end"):
        read_mbr(reader)
