"""Comparing images: every byte has a name, and every flipped byte is found where it is."""

from __future__ import annotations

import os
import random
from itertools import pairwise
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from builder.compare.frames import frame_regions, read_frames
from builder.compare.pe import pe_sections
from builder.compare.regions import Map, Region, differing_ranges
from builder.compare.root import _levels
from builder.compare.trees import differing_files
from builder.frames import zero_frame

_SIZE = 1000


@given(st.lists(st.tuples(st.integers(0, _SIZE), st.integers(0, _SIZE)), max_size=12), st.integers(0, _SIZE - 1))
def test_of_regions_on_top_of_one_another_the_last_one_counts(spans: list[tuple[int, int]], at: int) -> None:
    known = Map(_SIZE, "rest")
    known.add(Region(start, end, str(number)) for number, (start, end) in enumerate(spans))
    expected = [str(number) for number, (start, end) in enumerate(spans) if start <= at < end]
    [found] = known.split([(at, at + 1)])
    assert found.region.name == (expected or ["rest"])[-1]
    assert sum(d.end - d.start for d in known.split([(0, _SIZE)])) == _SIZE, "all is covered, nothing twice"


def test_flipped_bytes_are_found_in_data_and_in_holes(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    size = 20 * 2**20
    chosen = random.Random(4)
    for path in (one, two):
        with path.open("wb") as file:
            file.truncate(size)
            file.seek(5 * 2**20)
            file.write(b"\xa5" * 2**20)
    assert differing_ranges(one, two) == []
    places = sorted({0, size - 1, 5 * 2**20, *(chosen.randrange(size) for _ in range(20))})
    with two.open("r+b") as file:
        for at in places:
            old = os.pread(file.fileno(), 1, at)
            os.pwrite(file.fileno(), bytes([old[0] ^ 1]), at)
    assert differing_ranges(one, two) == [(at, at + 1) for at in places]


def test_what_only_the_longer_file_has_differs_also_when_it_is_a_hole(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_bytes(b"x" * 10)
    two.write_bytes(b"x" * 10)
    os.truncate(two, 3 * 2**20 + 5)
    assert differing_ranges(one, two) == differing_ranges(two, one) == [(10, 3 * 2**20 + 5)]


def _packed() -> bytes:
    compressor = zstandard.ZstdCompressor(write_checksum=True)
    return compressor.compress(os.urandom(300_000)) + zero_frame(2**20) + compressor.compress(b"text" * 1000)


def test_frames_cover_a_file_without_a_gap() -> None:
    data = _packed()
    frames, problem = read_frames(data)
    assert problem == ""
    assert [frame.zeros for frame in frames] == [None, 2**20, None]
    regions = list(frame_regions(frames))
    assert regions[0].start == 0
    assert regions[-1].end == len(data)
    assert all(one.end == two.start for one, two in pairwise(regions))
    assert sum(region.name.endswith("checksum") for region in regions) == 2


@pytest.mark.parametrize("cut", [1, 4, 5, 8, 100, 299_999])
def test_a_cut_file_is_told(cut: int) -> None:
    frames, problem = read_frames(_packed()[:cut])
    assert frames == []
    assert problem.startswith("frame 1: ")


def test_a_damaged_zero_frame_is_not_taken_for_zeros() -> None:
    data = bytearray(zero_frame(2**20))
    data[-1] = 7
    assert read_frames(bytes(data))[0][0].zeros is None


def test_what_is_no_pe_file_has_no_sections() -> None:
    for head in (b"", b"MZ", b"MZ" + b"\xff" * 4094, bytes(4096)):
        assert list(pe_sections(head)) == []


@pytest.mark.parametrize(
    ("count", "levels"), [(1, []), (128, [(0, 1)]), (129, [(1, 1), (0, 2)]), (16385, [(2, 1), (1, 2), (0, 129)])]
)
def test_levels_of_a_hash_tree(count: int, levels: list[tuple[int, int]]) -> None:
    assert list(_levels(count, 128)) == levels


def test_files_differ_in_what_belongs_to_them() -> None:
    same = {"kind": "-", "mode": "0o644", "owner": "0:0", "time": 1, "content": "1" * 64}
    first = {"/a": same, "/b": same, "/c": same, "/gone": same}
    second = {
        "/a": same,
        "/b": {**same, "mode": "0o600", "owner": "0:8"},
        "/c": {**same, "content": "2" * 64, "xattr user.x": "00"},
        "/new": same,
    }
    assert list(differing_files(first, second)) == [
        "/b: mode 0o644 → 0o600",
        "/b: owner 0:0 → 0:8",
        "/c: content differs",
        "/c: xattr user.x None → 00",
        "/gone: only in the first",
        "/new: only in the second",
    ]
