"""Ids that follow from content: of named inputs, of files, of our own modules."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

_BUILDER = Path(__file__).parent
_CACHED = "__pycache__"


def content_id(inputs: Mapping[str, object]) -> str:
    """Hash named inputs to an id of 64 hexadecimal digits, independent of their order.

    Args:
        inputs: values that JSON can hold.
    """
    text = json.dumps(inputs, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def file_digest(path: Path) -> str:
    """Hash a file's content to 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tree_digests(*roots: Path) -> dict[str, str]:
    """Hash every file below some folders, with its executable bit.

    Returns:
        `<folder name>/<relative path>` to a digest; folders that are absent contribute nothing.
    """
    return {
        f"{root.name}/{path.relative_to(root)}": _digest(path)
        for root in roots
        for path in sorted(root.rglob("*"))
        if _CACHED not in path.parts and (path.is_symlink() or not path.is_dir())
    }


def code_digests(*names: str) -> dict[str, str]:
    """Hash files of the builder itself: a stage names those that decide what its result looks like.

    Args:
        names: files of this folder.
    """
    return {name: _digest(_BUILDER / name) for name in names}


def tree_size(folder: Path) -> int:
    """Bytes that a folder takes on the disk; holes take none."""
    return sum(path.lstat().st_blocks * 512 for path in _everything(folder))


def _everything(folder: Path) -> Iterator[Path]:
    yield folder
    yield from folder.rglob("*")


def _digest(path: Path) -> str:
    if path.is_symlink():
        return f"-> {path.readlink()}"
    executable = "x" if path.stat().st_mode & 0o100 else "-"
    return executable + file_digest(path)
