"""Two results of `./darkpipe build`, compared file by file."""

from __future__ import annotations

import json
from pathlib import Path

from builder.cache import Cache
from builder.compare.image import compare_images
from builder.compare.regions import differing_ranges
from builder.differences import differences
from builder.errors import BuildError
from builder.packing import Packing
from builder.release import results
from builder.sandbox import Sandbox
from builder.sums import MANIFEST_NAME

_IMAGES = (".img", *(f".img.{packing}" for packing in Packing))


def compare(first: Path, second: Path, cache: Cache, tools: Sandbox) -> list[str]:
    """Name what differs between two results or two images; nothing when they are equal to the byte.

    Args:
        first: a folder that `./darkpipe build` has made, with one result or all, or an image.
        second: likewise.

    Raises:
        BuildError: they cannot be compared.
    """
    if first.is_dir() != second.is_dir():
        raise BuildError(f"{first} and {second}: one is a folder, and one is none", "name two folders or two images")
    if first.is_dir() and (parts := (_parts(first), _parts(second))) != ({}, {}):
        return _compare_releases(*parts, cache, tools)
    with cache.workspace() as work:
        if not first.is_dir():
            return compare_images(first, second, work, tools)
        lines = []
        one, two = _by_role(first), _by_role(second)
        for role in sorted({*one, *two}):
            if role not in one or role not in two:
                lines.append(f"{role}: only in the {'second' if role in two else 'first'}")
            elif differing_ranges(one[role], two[role]):
                folder = work / role
                folder.mkdir()
                lines += [f"{role}: {line}" for line in _compare_files(one[role], two[role], folder, tools)]
        return lines


def _parts(folder: Path) -> dict[str, Path]:
    """Give the results in a release's folder by their platforms; nothing for another folder."""
    manifest = folder / MANIFEST_NAME
    if not manifest.is_file():
        return {}
    return {str(part["profile"]): folder / Path(name).name for name, part in results(folder).items()}


def _compare_releases(first: dict[str, Path], second: dict[str, Path], cache: Cache, tools: Sandbox) -> list[str]:
    lines = []
    for profile in sorted({*first, *second}):
        if profile not in first or profile not in second:
            lines.append(f"{profile}: only in the {'second' if profile in second else 'first'}")
        else:
            lines += [f"{profile}: {line}" for line in compare(first[profile], second[profile], cache, tools)]
    return lines


def _by_role(folder: Path) -> dict[str, Path]:
    """Files by their names, without the result's own name, which holds the image's id."""
    return {path.name.removeprefix(folder.name).lstrip("."): path for path in folder.iterdir() if path.is_file()}


def _compare_files(first: Path, second: Path, work: Path, tools: Sandbox) -> list[str]:
    if first.name.endswith(_IMAGES):
        return compare_images(first, second, work, tools)
    if first.suffix == ".json":
        try:
            values = [json.loads(path.read_text(encoding="utf-8")) for path in (first, second)]
            if lines := differences(values[0], values[1]):
                return lines
        except (ValueError, TypeError, AttributeError):
            pass  # then its bytes are all that can be said
    ranges = differing_ranges(first, second)
    return [f"bytes {start:#x} to {end - 1:#x} differ" for start, end in ranges[:10]]
