"""Two disk images, compressed or not, compared to the byte."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from builder.compare.frames import frame_regions, read_frames
from builder.compare.layout import Images
from builder.compare.regions import Difference, Map, differing_ranges
from builder.compare.root import FILE_SYSTEM
from builder.compare.trees import LIST_TREE, Listing, differing_files, read_listing
from builder.errors import ToolError
from builder.packing import Packing, unpack_image
from builder.sandbox import Sandbox

_COMPRESSED = tuple(f".{packing}" for packing in Packing)
_MOST = 100
"""Lines about one kind of thing; a longer list helps nobody."""


def compare_images(first: Path, second: Path, work: Path, tools: Sandbox) -> list[str]:
    """Name what differs between two images; nothing when they are equal.

    Args:
        first: a raw image, or a compressed one (`.zst`, `.xz`).
        second: likewise.
        work: an empty folder below the cache; unpacked images take their space there.
    """
    both = (first, second)
    if all(path.suffix in _COMPRESSED for path in both) and not differing_ranges(*both):
        return []
    raw, broken = [], []
    for path, name in zip(both, ("first", "second"), strict=True):
        target = work / f"{name}.img"
        reason = _unpack(path, target, tools) if path.suffix in _COMPRESSED else _take(path, target)
        raw.append(target)
        broken += [f"the {name} cannot be unpacked: {reason}"] if reason else []
    lines = [] if broken else compare_raw(raw[0], raw[1], work, tools)
    if not lines and all(path.suffix in _COMPRESSED for path in both):
        lines = [*broken, *map(str, _compressed_differences(*both))]
    return lines or broken


def compare_raw(first: Path, second: Path, work: Path, tools: Sandbox) -> list[str]:
    """Name what differs between two raw images.

    Args:
        first: below the cache, as is the second.
    """
    ranges = differing_ranges(first, second)
    if not ranges:
        return []
    sizes = [path.stat().st_size for path in (first, second)]
    lines = [f"size: {sizes[0]:,} → {sizes[1]:,} bytes"] if sizes[0] != sizes[1] else []
    images = Images((first, second))
    try:
        differences = images.map().split(ranges)
        rows = images.rows()
    finally:
        images.close()
    lines += _shortened([str(difference) for difference in differences])
    for row in rows:
        mark = f"partition {row.label}, {FILE_SYSTEM}"
        if any(difference.region.name.startswith(mark) for difference in differences):
            files = list(_compare_files(first, second, row.start, work, tools))
            lines += _shortened([f"partition {row.label}: {line}" for line in files])
    return lines


def _compare_files(first: Path, second: Path, start: int, work: Path, tools: Sandbox) -> Iterator[str]:
    listings: list[Listing] = []
    for path, name in ((first, "first"), (second, "second")):
        try:
            listings.append(_list_files(path, start, work, tools))
        except ToolError as error:
            yield f"the file system of the {name} cannot be read: {str(error).splitlines()[2]}"
    if len(listings) == 2:
        found = list(differing_files(*listings))
        yield from found or ["every file is the same in both; the bytes that differ belong to none"]


def _list_files(image: Path, start: int, work: Path, tools: Sandbox) -> Listing:
    scratch = work / "scratch"
    scratch.mkdir(exist_ok=True)
    target = work / "listing"
    # A damaged file must not hide the others: what could not be read shows as another content or as missing.
    script = (
        'fsck.erofs --extract=/tmp/tree --preserve --xattrs --offset="$2" "$1" >&2 || echo "fsck.erofs: $?" >&2; '
        'python3 -c "$3" /tmp/tree'
    )
    with target.open("wb") as listing:
        arguments = [tools.inside(image), str(start), LIST_TREE]
        tools.run(["sh", "-uc", script, "list", *arguments], stdout=listing, scratch=scratch)
    return read_listing(target)


def _unpack(path: Path, target: Path, tools: Sandbox) -> str:
    """Unpack an image, with holes for its zeros; give what is wrong with it, empty when nothing is."""
    if Packing.of(path) is Packing.XZ:
        return _unpack_xz(path, target, tools)
    frames, problem = read_frames(path.read_bytes())
    with target.open("wb") as image:
        for number, frame in enumerate(frames, start=1):
            if frame.zeros is not None:
                image.truncate(image.seek(frame.zeros, 2))
                continue
            image.seek(0, 2)
            with path.open("rb") as packed:
                packed.seek(frame.start)
                try:
                    tools.run(
                        ["sh", "-euc", 'head -c "$1" | zstd -q -dc', "unpack", str(frame.end - frame.start)],
                        stdin=packed,
                        stdout=image,
                    )
                except ToolError as error:
                    return f"frame {number}: {str(error).splitlines()[2]}"
    return problem


def _unpack_xz(path: Path, target: Path, tools: Sandbox) -> str:
    try:
        unpack_image(path, target, tools)
    except ToolError as error:
        return str(error).splitlines()[2]
    return ""


def _take(path: Path, target: Path) -> str:
    if target.parent in path.parents:
        target.symlink_to(path)
    else:
        shutil.copyfile(path, target)
    return ""


def _compressed_differences(first: Path, second: Path) -> list[Difference]:
    if Packing.XZ in {Packing.of(path) for path in (first, second)}:
        known = Map(max(path.stat().st_size for path in (first, second)), "compressed file")
        return known.split(differing_ranges(first, second))
    packed = [path.read_bytes() for path in (first, second)]
    # Of the two the one whose structure is whole tells best what lies where.
    frames, _ = min((read_frames(data) for data in packed), key=lambda found: bool(found[1]))
    known = Map(max(len(data) for data in packed), "compressed file, behind all frames")
    known.add(frame_regions(frames))
    return known.split(differing_ranges(first, second))


def _shortened(lines: list[str]) -> list[str]:
    return lines[:_MOST] + ([f"… and {len(lines) - _MOST:,} more"] if len(lines) > _MOST else [])
