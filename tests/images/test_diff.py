"""`./darkpipe diff` on a real image: one flipped byte anywhere is found, and named by what lies there."""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.archive import Archive
from builder.cache import Cache
from builder.compare.image import _unpack, compare_images, compare_raw
from builder.compare.layout import Images
from builder.compare.regions import Map
from builder.progress import Stages
from builder.sandbox import Sandbox, remove_tree
from builder.tools import BUILD_TOOLS, open_tools
from tests.images.machine import REPOSITORY

_SEED = 20261101


@pytest.fixture(scope="module")
def work() -> Iterator[Path]:
    with Cache(Cache.default().root, remove_tree).workspace() as folder:
        yield folder


@pytest.fixture(scope="module")
def tools() -> Sandbox:
    return open_tools(BUILD_TOOLS, Cache.default(), Archive.from_environment(), Stages())


@pytest.fixture(scope="module")
def pair(image: Path, work: Path, tools: Sandbox) -> tuple[Path, Path]:
    """The unpacked image twice, with holes; the tests flip bytes in the second and flip them back."""
    raw, other = work / "raw.img", work / "other.img"
    assert _unpack(next(image.glob("*.img.zst")), raw, tools) == ""
    subprocess.run(["cp", "--sparse=always", raw, other], check=True)
    return raw, other


def _flip(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        old = os.pread(file.fileno(), 1, at)
        os.pwrite(file.fileno(), bytes([old[0] ^ 0x10]), at)


def _map(path: Path) -> Map:
    images = Images([path])
    try:
        return images.map()
    finally:
        images.close()


def test_equal_images_do_not_differ(pair: tuple[Path, Path], work: Path, tools: Sandbox) -> None:
    assert compare_raw(*pair, work, tools) == []


def test_every_byte_of_an_image_has_a_name(pair: tuple[Path, Path]) -> None:
    size = pair[0].stat().st_size
    names = {difference.region.name for difference in _map(pair[0]).split([(0, size)])}
    for expected in (
        "protective MBR, boot code",
        "partition table, header, disk UUID",
        "partition table, entry 2 (darkpipe-root-a), UUID",
        "backup partition table, header, signature",
        "outside of all partitions",
        "partition darkpipe-esp, boot sector",
        "partition darkpipe-esp, file allocation table 2",
        "partition darkpipe-esp, directory /EFI/Linux",
        "partition darkpipe-esp, /darkpipe.yaml",
        "partition darkpipe-esp, /darkpipe.yaml, slack",
        "partition darkpipe-esp, /EFI/Linux/darkpipe-0.1.0.efi, section .cmdline",
        "partition darkpipe-esp, /EFI/Linux/darkpipe-0.1.0.efi, section .initrd",
        "partition darkpipe-esp, free space",
        "partition darkpipe-root-a, erofs, superblock",
        "partition darkpipe-root-a, dm-verity, superblock",
        "partition darkpipe-root-a, dm-verity, hash tree, level 0",
        "partition darkpipe-root-a, unused space behind the hash tree",
    ):
        assert expected in names
    assert not [name for name in names if "no known format" in name]


def _find(path: Path, needle: bytes) -> int:
    found = subprocess.run(
        ["grep", "--byte-offset", "--only-matching", "--text", "--max-count=1", "--perl-regexp", needle, path],
        capture_output=True,
        check=True,
        env={**os.environ, "LC_ALL": "C"},
    )
    return int(found.stdout.split(b":")[0])


def _kind(name: str) -> str:
    """A region's name without what is one of many: numbers, labels, paths."""
    return re.sub(r"\d+|/.*?(?=,|$)|\(.*?\)|(?<=^partition )\S+(?=,)", "", name)


def test_one_byte_in_each_region_is_found(pair: tuple[Path, Path], work: Path, tools: Sandbox) -> None:
    """Also when it damages the structure that names it, and whichever image is the damaged one."""
    raw, other = pair
    chosen = random.Random(_SEED)
    regions = [difference.region for difference in _map(raw).split([(0, raw.stat().st_size)])]
    kinds: dict[str, list[int]] = {}
    for region in regions:
        kinds.setdefault(_kind(region.name), []).append(chosen.randrange(region.start, region.end))
    names = _map(raw)
    places = [chosen.choice(offsets) for offsets in kinds.values()]
    assert len(places) > 30
    for number, at in enumerate(places):
        _flip(other, at)
        order = (raw, other) if number % 2 else (other, raw)
        lines = compare_raw(*order, work, tools)
        _flip(other, at)
        [expected] = names.split([(at, at + 1)])
        # A flipped byte in a name shows in the name.
        found = [line for line in lines if line.endswith(f"(in the file: {at:#x})")]
        assert [_kind(line.rsplit(": 1 byte", 1)[0]) for line in found] == [_kind(expected.region.name)], (at, lines)


def test_known_places_have_their_names(pair: tuple[Path, Path], work: Path, tools: Sandbox) -> None:
    raw, other = pair
    for needle, name in (
        (b"darkpipe\\.hash=", "section .cmdline"),
        (b"alice@example", "/darkpipe.yaml"),
        (b"One entry, no menu", "/loader/loader.conf"),
        (b"verity\\x00\\x00\\x01\\x00\\x00\\x00\\x01", "dm-verity, superblock"),
    ):
        at = _find(raw, needle)
        _flip(other, at)
        lines = compare_raw(raw, other, work, tools)
        _flip(other, at)
        assert [line for line in lines if f"{name}: 1 byte" in line and f"{at:#x})" in line], lines


def test_a_flipped_byte_of_a_file_names_the_file(pair: tuple[Path, Path], work: Path, tools: Sandbox) -> None:
    """A text that lies uncompressed in the root: a file of less than a block at the end of its inode."""
    raw, other = pair
    at = _find(raw, b"disable dpkg-db-backup|127\\.0\\.0\\.1[ \\t]+localhost")
    _flip(other, at)
    lines = compare_raw(raw, other, work, tools)
    _flip(other, at)
    assert any(line.endswith("/etc/hosts: content differs") for line in lines), lines


def test_a_flipped_byte_of_the_compressed_file_is_found(
    image: Path, tmp_path: Path, work: Path, tools: Sandbox
) -> None:
    source = next(image.glob("*.img.zst"))
    copy = tmp_path / "copy.img.zst"
    shutil.copyfile(source, copy)
    folder = work / "packed"
    for at, name in ((4, "frame 1, header"), (6, "frame 1, header of block 1"), (1, "frame 1, header")):
        _flip(copy, at)
        folder.mkdir()
        lines = compare_images(source, copy, folder, tools)
        remove_tree(folder)
        _flip(copy, at)
        assert [line for line in lines if name in line], lines


def test_exit_status_is_that_of_diff(image: Path, tmp_path: Path) -> None:
    command = [str(REPOSITORY / "darkpipe"), "diff", str(image)]

    def status(other: Path) -> int:
        return subprocess.run([*command, str(other)], capture_output=True, check=False).returncode

    copy = tmp_path / image.name
    shutil.copytree(image, copy)
    assert status(copy) == 0
    (copy / "manifest.json").write_text("{}\n")
    assert status(copy) == 1
    assert status(copy / "manifest.json") == 2
