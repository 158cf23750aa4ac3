"""`darkpipe diff` on disks with an MBR, whose tables the real sfdisk has made."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.compare.layout import Images
from builder.compare.mbr import mbr_regions, read_mbr
from builder.compare.reader import Reader
from builder.compare.regions import differing_ranges
from builder.disk import disk_size, place, table_script
from builder.profile import load_profile
from builder.root import Root

PROFILE = load_profile(Path(__file__).resolve().parents[2] / "profiles/raspberrypi")
ROOT = Root(Path("/nowhere"), "4f0c" * 16, 4096)
SFDISK = shutil.which("sfdisk") or "/usr/sbin/sfdisk"


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    with path.open("wb") as file:
        file.truncate(disk_size(PROFILE))
    script = table_script(PROFILE, ROOT)
    subprocess.run([SFDISK, "--quiet", "--no-reread", str(path)], input=script, text=True, check=True)
    return path


@pytest.fixture
def reader(disk: Path) -> Iterator[Reader]:
    descriptor = os.open(disk, os.O_RDONLY)
    yield Reader(descriptor, 0, disk.stat().st_size)
    os.close(descriptor)


def test_the_table_is_as_it_was_planned(disk: Path, reader: Reader) -> None:
    found = [(int(row.label), row.start, row.end) for row in read_mbr(reader)]
    assert found == [(row.number, row.start, row.end) for row in place(PROFILE)]
    verified = subprocess.run([SFDISK, "--verify", str(disk)], stdout=subprocess.PIPE, text=True, check=True).stdout
    assert "No errors detected" in verified


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
