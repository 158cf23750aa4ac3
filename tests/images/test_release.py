"""The result's folder: what bmaptool and an SPDX library say of it, and the faults that `./darkpipe verify` finds."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from spdx_tools.spdx.parser.parse_anything import parse_file
from spdx_tools.spdx.validation.document_validator import validate_full_spdx_document

from builder.archive import Archive
from builder.bmap import BlockMap, Range, parse_map
from builder.cache import Cache
from builder.progress import Stages
from builder.sandbox import Sandbox
from builder.sums import write_sums
from builder.tools import BUILD_TOOLS, ToolsTree, open_tools
from builder.verify import verify
from tests.images.machine import REPOSITORY

_BMAPTOOL = ToolsTree("bmaptool", ("bmap-tools", "zstd"))


def _open(tree: ToolsTree) -> Sandbox:
    return open_tools(tree, Cache.default(), Archive.from_environment(), Stages())


@pytest.fixture
def work() -> Iterator[Path]:
    """A folder that the tools see."""
    with Cache.default().workspace() as folder:
        yield folder


@pytest.fixture
def folder(image: Path, work: Path) -> Path:
    """A copy of the result that a test may spoil."""
    copy = work / image.name
    shutil.copytree(image, copy)
    return copy


def _bad(folder: Path, work: Path) -> dict[str, str]:
    scratch = work / "scratch"
    scratch.mkdir()
    return {found.subject: found.text for found in verify(folder, _open(BUILD_TOOLS), scratch, None) if not found.good}


def _map_path(folder: Path) -> Path:
    return next(folder.glob("*.img.bmap"))


def test_verify_is_content_with_a_build(image: Path) -> None:
    command = [str(REPOSITORY / "darkpipe"), "verify", str(image)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert output.count("good ") >= 6
    assert "What it does not prove" in output


def test_bmaptool_takes_the_map_and_writes_the_image(image: Path, work: Path) -> None:
    folder, tools = work / image.name, _open(_BMAPTOOL)
    shutil.copytree(image, folder)
    packed = next(folder.glob("*.img.zst"))
    tools.run(["bmaptool", "copy", tools.inside(packed), tools.inside(work / "copy")])  # finds the map by its name
    with packed.open("rb") as stream:
        tools.run(["zstd", "-q", "-d", "--sparse", "-o", tools.inside(work / "raw")], stdin=stream)
    tools.run(["cmp", tools.inside(work / "copy"), tools.inside(work / "raw")])


def test_bmaptool_refuses_a_map_of_another_image(image: Path, work: Path) -> None:
    folder, tools = work / image.name, _open(_BMAPTOOL)
    shutil.copytree(image, folder)
    path = _map_path(folder)
    found = parse_map(path.read_text())
    first = found.ranges[0]
    path.write_text(BlockMap(found.image_size, (Range(first.first, first.last, "1" * 64), *found.ranges[1:])).text())
    inside = tools.inside(next(folder.glob("*.img.zst")))
    output = tools.run(["sh", "-c", 'bmaptool copy "$1" "$2" || true', "sh", inside, tools.inside(work / "copy")])
    assert "checksum mismatch" in output


def test_bill_of_materials_is_valid(image: Path) -> None:
    document = parse_file(str(image / "sbom.spdx.json"))
    assert validate_full_spdx_document(document) == []
    assert len(document.packages) > 100


def _swap_sbom(folder: Path) -> None:
    path = folder / "sbom.spdx.json"
    document = json.loads(path.read_text())
    del document["packages"][5]
    path.write_text(json.dumps(document))


def _change_lock(folder: Path) -> None:
    path = folder / "packages.lock"
    path.write_text(path.read_text().replace('"version": "3.', '"version": "4.', 1))


def _change_manifest_hash(folder: Path) -> None:
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["root"]["hash"] = "0" * 64
    path.write_text(json.dumps(manifest))


def _change_manifest_partition(folder: Path) -> None:
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["partitions"][1]["label"] = "darkpipe-root-b"
    path.write_text(json.dumps(manifest))


def _change_map(folder: Path) -> None:
    path = _map_path(folder)
    found = parse_map(path.read_text())
    path.write_text(BlockMap(found.image_size, found.ranges[:-1]).text())


def _other_version(folder: Path) -> None:
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps({**manifest, "version": "9.9.9"}))


@pytest.mark.parametrize(
    ("spoil", "subjects"),
    [
        (_swap_sbom, {"packages"}),
        (_change_lock, {"packages"}),
        (_change_manifest_hash, {"verified root"}),
        (_change_manifest_partition, {"partitions"}),
        (_change_map, {"block map"}),
        (_other_version, {"image"}),
    ],
)
def test_a_fault_with_fitting_sums_is_found(
    folder: Path, work: Path, spoil: Callable[[Path], None], subjects: set[str]
) -> None:
    """Somebody has made the sums anew after the change."""
    spoil(folder)
    (folder / "SHA256SUMS").unlink()
    write_sums(folder)
    assert set(_bad(folder, work)) == subjects


@pytest.mark.parametrize("where", [0, 2])
def test_a_flipped_byte_in_the_image_is_found_whatever_else_is_made_to_fit(
    folder: Path, work: Path, where: int
) -> None:
    """In the partition table and in the root, with the block map and the sums of the changed image."""
    tools, packed, raw = _open(BUILD_TOOLS), next(folder.glob("*.img.zst")), work / "raw"
    with packed.open("rb") as stream:
        tools.run(["zstd", "-q", "-d", "--sparse", "-o", tools.inside(raw)], stdin=stream)
    block_map = parse_map(_map_path(folder).read_text())
    position = block_map.ranges[where].start + (600 if where == 0 else block_map.ranges[where].size // 2)
    with raw.open("r+b") as file:
        byte = os.pread(file.fileno(), 1, position)
        os.pwrite(file.fileno(), bytes([byte[0] ^ 1]), position)
    tools.run(["zstd", "-q", "-1", "-f", tools.inside(raw), "-o", tools.inside(packed)])
    (folder / "SHA256SUMS").unlink()
    write_sums(folder)
    bad = _bad(folder, work)
    assert "block map" in bad
    assert bad.keys() & {"partitions", "verified root"}


def test_content_that_the_map_leaves_out_is_found(folder: Path, work: Path) -> None:
    path = _map_path(folder)
    found = parse_map(path.read_text())
    shorter = [entry for entry in found.ranges if entry.first != 256]
    path.write_text(BlockMap(found.image_size, tuple(shorter)).text())
    bad = _bad(folder, work)
    assert "content near byte 1,048,576" in bad["block map"]
