"""The bundle: the relay's software as one tar, which the image holds and home brings to its relay.

The same sources give the same bits; their SHA-256 is the bundle's id. The wheels of both architectures go along as they
are, compressed: home and relay may differ.
"""

from __future__ import annotations

import ast
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from bootstrap.user_data import PACKAGES
from builder.digests import file_digest
from builder.tar import write_tar
from builder.version import VERSION
from builder.wheels import ARCHITECTURES, Wheel
from model.bundle import MANIFEST, SYSTEM, WHEELS, Manifest
from model.control import PROTOCOL

SOURCES = ("relay", "relay-cloudinit/files")
"""Folders of the checkout whose files all go in; of `model` it is what those import."""

_KEYS = "etc/wireguard"
"""Belongs to the server: its keys are no software."""

_RUN = "run.py"


def model_modules(source: Path) -> tuple[str, ...]:
    """List the files of `model` that the relay's modules import, directly or not, by their names.

    Args:
        source: the checkout.
    """
    found: set[str] = set()
    waiting = list((source / "relay").glob("*.py"))
    while waiting:
        for name in _imports_of_model(waiting.pop().read_text(encoding="utf-8")):
            path = source / "model" / f"{name}.py"
            if path.name not in found and path.is_file():
                found.add(path.name)
                waiting.append(path)
    return tuple(sorted({"__init__.py", *found}))


def _imports_of_model(text: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.module == "model":
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("model."):
            yield node.module.removeprefix("model.")


def source_files(source: Path) -> list[Path]:
    """List all files of the checkout that a bundle is made from."""
    files = [path for name in SOURCES for path in (source / name).rglob("*") if path.is_file()]
    files += [source / "model" / name for name in model_modules(source)]
    return sorted(path for path in files if "__pycache__" not in path.parts)


def make_bundle(
    source: Path, wheels: Sequence[Wheel], folder: Path, work: Path, target: Path, version: str = VERSION
) -> dict[str, object]:
    """Write the bundle.

    Args:
        source: the checkout.
        wheels: of both architectures; their files lie in `folder`.
        work: a folder that is not there yet.

    Returns:
        What home must know of it: id, version, protocol and size in octets.
    """
    for file in source_files(source):
        place = work / _place(file.relative_to(source))
        if place.relative_to(work).is_relative_to(f"{SYSTEM}/{_KEYS}"):
            continue
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, place)
    (work / WHEELS).mkdir()
    for wheel in wheels:
        shutil.copyfile(folder / wheel.file, work / WHEELS / wheel.file)
    machines = {wheel.file: ARCHITECTURES[wheel.architecture] for wheel in wheels}
    (work / MANIFEST).write_bytes(Manifest(version, PROTOCOL, PACKAGES, machines).to_json() + b"\n")
    write_tar(str(target), work)
    size = target.stat().st_size
    return {"id": file_digest(target), "version": version, "protocol": PROTOCOL, "bytes": size}


def _place(file: Path) -> Path:
    """Give the path in the bundle of a file of the checkout."""
    match file.parts:
        case ("relay", name) if name == _RUN:
            return Path("run")
        case ("relay", "system", *rest):
            return Path(SYSTEM, *rest)
        case ("relay-cloudinit", "files", *rest):
            return Path(SYSTEM, *rest)
    return file
