"""Files for a container and from it, as the tar streams of the Engine API."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from builder.errors import BuildError

_BLOCK = 512
_CHUNK = 2**20
_LEFT_OUT = frozenset({"__pycache__"})


@dataclass(frozen=True)
class Item:
    """A file or folder to be sent; whoever sends, in the container it is root's.

    Args:
        name: where it goes, relative.
        content: a file of this computer, its bytes, or None for a folder or link.
        mode: its permissions.
        link: where a symbolic link leads.
    """

    name: str
    content: Path | bytes | None
    mode: int
    link: str = ""


def folder_items(path: Path, name: str) -> Iterator[Item]:
    """Give a file, or a folder with all that is in it; links in it stay links, and compiled Python stays behind.

    Args:
        name: its new name.

    Raises:
        BuildError: there is something that is neither file nor folder.
    """
    if path.is_dir():
        yield Item(name, None, 0o755)
        for entry in sorted(path.iterdir()):
            if entry.is_symlink():
                yield Item(f"{name}/{entry.name}", None, 0o777, str(entry.readlink()))
            elif entry.name not in _LEFT_OUT:
                yield from folder_items(entry, f"{name}/{entry.name}")
    elif path.is_file():
        yield Item(name, path, 0o755 if path.stat().st_mode & 0o100 else 0o644)
    else:
        raise BuildError(f"{path} is neither a file nor a folder", "remove it, or build without a container")


def pack(items: Iterable[Item]) -> Iterator[bytes]:
    """Give the chunks of a tar; nothing is held in memory or on the disk.

    Raises:
        BuildError: a file has changed meanwhile.
        OSError: a file cannot be read.
    """
    for item in items:
        member = tarfile.TarInfo(item.name)
        member.mode = item.mode
        if item.content is None:
            member.type = tarfile.SYMTYPE if item.link else tarfile.DIRTYPE
            member.linkname = item.link
            yield member.tobuf(tarfile.PAX_FORMAT)
        elif isinstance(item.content, bytes):
            member.size = len(item.content)
            yield member.tobuf(tarfile.PAX_FORMAT) + item.content + bytes(-member.size % _BLOCK)
        else:
            with item.content.open("rb") as file:
                member.size = file.seek(0, io.SEEK_END)
                file.seek(0)
                yield member.tobuf(tarfile.PAX_FORMAT)
                yield from _exactly(file, member.size, item.content)
            yield bytes(-member.size % _BLOCK)
    yield bytes(2 * _BLOCK)


def unpack(chunks: Iterable[bytes], folder: Path) -> list[Path]:
    """Write the files and folders of a tar into a folder.

    A name that leads out of the folder and everything that is neither file nor folder is refused: the tar comes from
    a container, maybe on another computer.

    Returns:
        What lies directly in the folder afterwards.

    Raises:
        BuildError: the tar is damaged or holds what nobody has asked for.
    """
    try:
        with tarfile.open(fileobj=io.BufferedReader(_Stream(chunks)), mode="r|") as tar:
            for member in tar:
                _write(tar, member, folder)
    except tarfile.TarError as error:
        raise BuildError(f"what came from the container is damaged: {error}", "try again") from error
    return sorted(folder.iterdir())


def _exactly(file: IO[bytes], size: int, path: Path) -> Iterator[bytes]:
    while size:
        chunk = file.read(min(size, _CHUNK))
        if not chunk:
            raise BuildError(f"{path} has become shorter while it was read", "try again when nobody writes to it")
        size -= len(chunk)
        yield chunk


def _write(tar: tarfile.TarFile, member: tarfile.TarInfo, folder: Path) -> None:
    name = PurePosixPath(member.name)
    if name.is_absolute() or ".." in name.parts:
        raise BuildError(f"the container has sent a file named {member.name!r}")
    target = folder / name
    if member.isdir():
        target.mkdir(mode=member.mode & 0o777, exist_ok=True)
        return
    source = tar.extractfile(member) if member.isreg() else None
    if source is None:
        raise BuildError(f"the container has sent {member.name!r}, which is neither file nor folder")
    with source, target.open("xb") as file:
        target.chmod(member.mode & 0o777)
        while chunk := source.read(_CHUNK):
            file.write(chunk)


class _Stream(io.RawIOBase):
    """Chunks of any size as a file to read from."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while not self._rest:
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self._rest = chunk
        count = min(len(buffer), len(self._rest))
        buffer[:count], self._rest = self._rest[:count], self._rest[count:]
        return count
