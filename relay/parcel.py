"""A bundle that comes in: octets that are compared with its id, then a folder, there as a whole or not at all."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tarfile
from pathlib import Path
from typing import Protocol

from relay.files import sync_folder

CURRENT = "current"
"""The link to the bundle in force."""

LARGEST = 96 * 2**20
"""Octets of a bundle, which is not compressed."""

_IDENTIFIER = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"(\./)?[A-Za-z0-9_@.+-]+(/[A-Za-z0-9_@.+-]+)*")
_PIECE = 2**20


class Source(Protocol):
    """What octets are read from."""

    def read(self, size: int, /) -> bytes:
        """Give at most so many octets; none at the end."""
        ...


class Refused(Exception):
    """What came is no bundle; the text says why."""


def receive(source: Source, length: int, identifier: str, target: Path) -> None:
    """Write a bundle to a file, and compare it with its id.

    Raises:
        Refused: it is none.
        OSError: the disk is full, or home has gone.
    """
    if not _IDENTIFIER.fullmatch(identifier):
        raise Refused("expected the bundle's SHA-256 as its id")
    if not 0 < length <= LARGEST:
        raise Refused(f"found a bundle of {length} octets, expected at most {LARGEST}")
    digest = hashlib.sha256()
    with target.open("wb") as file:
        while length and (piece := source.read(min(length, _PIECE))):
            digest.update(piece)
            file.write(piece)
            length -= len(piece)
        file.flush()
        os.fsync(file.fileno())
    if length:
        raise Refused(f"the bundle broke off {length} octets before its end")
    if digest.hexdigest() != identifier:
        raise Refused(f"the bundle's SHA-256 is {digest.hexdigest()}, expected {identifier}")


def unpack(bundle: Path, base: Path, identifier: str) -> Path:
    """Make the folder of a bundle that was received: it is there as a whole or not at all.

    Raises:
        Refused: there is something else in it than plain files and folders under plain names.
        OSError: the disk is full.
    """
    folder, partial = base / identifier, base / f".{identifier}.new"
    if folder.is_dir():
        return folder
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        with tarfile.open(bundle, "r:") as tar:
            for member in tar:
                _write(tar, member, partial)
        for inside in (partial, *(path for path in partial.rglob("*") if path.is_dir())):
            inside.chmod(0o755)  # for the queue's user, whatever the umask
        os.sync()
        partial.rename(folder)
    except (tarfile.TarError, ValueError, FileExistsError, NotADirectoryError) as error:
        raise Refused(f"the bundle is no tar of ours: {error}") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    sync_folder(base)
    return folder


def _write(tar: tarfile.TarFile, member: tarfile.TarInfo, folder: Path) -> None:
    parts = Path(member.name).parts
    if not _NAME.fullmatch(member.name) or ".." in parts:
        raise Refused(f"the bundle has a name that no file of ours has: {member.name!r}")
    target = folder.joinpath(*parts)
    if member.isdir():
        target.mkdir(exist_ok=True)
        return
    content = tar.extractfile(member) if member.isreg() and not member.issparse() else None
    if content is None:
        raise Refused(f"the bundle has something else than files and folders: {member.name!r}")
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("xb") as file:
        shutil.copyfileobj(content, file)
    target.chmod(0o755 if member.mode & 0o100 else 0o644)


def point(base: Path, name: str, identifier: str) -> None:
    """Let a link lead to the folder of a bundle, by one rename."""
    partial = base / f".{name}.new"
    partial.unlink(missing_ok=True)
    partial.symlink_to(identifier)
    partial.replace(base / name)
    sync_folder(base)
