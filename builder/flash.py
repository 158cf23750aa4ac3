"""Writing an image to a disk by its block map, and reading back what was written.

The partition table is written last: until then the disk has none, so that a flash that was cut off leaves a disk that
nothing starts from and nothing mounts, rather than one that looks finished.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import mmap
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from builder.bmap import BlockMap, parse_map
from builder.errors import BuildError
from builder.packing import Packing, find_image
from builder.progress import Advance, Stages
from builder.sandbox import Sandbox
from builder.sums import MANIFEST_NAME, check_sums

_CHUNK = 2**20
_END = 2**20
"""Bytes at the end of a disk that are cleared: a former GPT has its backup there (UEFI 2.10 §5.3.1)."""

_BLKRRPART = 0x125F
_BLKFLSBUF = 0x1261


@dataclass(frozen=True)
class Image:
    """A compressed image with its map.

    Args:
        smallest: bytes that a disk for it must have.
    """

    packed: Path
    block_map: BlockMap
    smallest: int


def open_image(path: Path) -> Image:
    """Find image, map and manifest in a result's folder.

    Args:
        path: the folder, or the image in it.

    Raises:
        BuildError: it is no such folder, or it does not fit its sums.
    """
    folder = path if path.is_dir() else path.parent
    packed = find_image(folder)
    if path not in (folder, packed):
        raise BuildError(f"{path} is no result of `./darkpipe build`", "name the folder that it printed")
    if faults := check_sums(folder):
        raise BuildError(f"{folder} is damaged: {'; '.join(faults)}", "copy or build it again")
    try:
        manifest = json.loads((folder / MANIFEST_NAME).read_text(encoding="utf-8"))
        block_map = parse_map(packed.with_suffix(".bmap").read_text(encoding="utf-8"))
        return Image(packed, block_map, int(manifest["image"]["smallest_disk_bytes"]))
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise BuildError(f"{folder} cannot be read: {error}", "copy or build it again") from error


def write_disk(image: Image, target: Path, tools: Sandbox, stages: Stages) -> None:
    """Write and verify.

    Args:
        target: a disk, or a file in the image's size or larger.

    Raises:
        BuildError: the target is in use, breaks, or does not keep what was written. What it is then like is said by
            `state_after`.
    """
    try:
        # The kernel lends a disk to one of us only, and to nobody while it is mounted or held (open(2), O_EXCL).
        descriptor = os.open(target, os.O_RDWR | os.O_CLOEXEC | (os.O_EXCL if target.is_block_device() else 0))
    except OSError as error:
        raise BuildError(
            f"{target} cannot be opened: {error.strerror}", "is it in use? Do you have the right?"
        ) from error
    try:
        with stages.stage("Write") as advance:
            _write(image, descriptor, tools, advance)
        with stages.stage("Read back") as advance:
            _read_back(image.block_map, target, descriptor, advance)
    except OSError as error:
        raise BuildError(f"{target} does not take the image: {error.strerror}", "the disk may be broken") from error
    finally:
        if target.is_block_device():
            with suppress(OSError):  # a kernel that does not look now does so at the next start
                fcntl.ioctl(descriptor, _BLKRRPART)
        os.close(descriptor)


def state_after(target: Path) -> str:
    """Tell what a disk is like on which `write_disk` has not come to its end."""
    try:
        with target.open("rb") as file:
            has_table = any(file.read(_CHUNK))
    except OSError as error:
        return f"{target} cannot be read now ({error.strerror}); its old content is gone."
    if has_table:
        return f"{target} has the image, but was not verified to its end. Flash it again before you start from it."
    return f"{target} has no partition table now: nothing starts from it, its old content is gone. Flash it again."


def _write(image: Image, descriptor: int, tools: Sandbox, advance: Advance) -> None:
    ranges = image.block_map.ranges
    size = os.lseek(descriptor, 0, os.SEEK_END)
    os.pwrite(descriptor, bytes(_CHUNK), 0)
    os.pwrite(descriptor, bytes(_END), size - _END)
    os.fsync(descriptor)
    total = sum(entry.size for entry in ranges)
    done = position = 0
    head = b""
    with _unpacked(image.packed, tools) as stream:
        for entry in ranges:
            _skip(stream, entry.start - position)
            position = entry.start + entry.size
            digest = hashlib.sha256()
            at = entry.start
            for chunk in _chunks(stream, entry.size):
                digest.update(chunk)
                if at < _CHUNK:
                    head += chunk
                else:
                    _write_all(descriptor, chunk, at)
                at += len(chunk)
                done += len(chunk)
                advance(done / total, f"{done / 10**6:.0f} of {total / 10**6:.0f} MB")
            if digest.hexdigest() != entry.sha256:
                raise BuildError(
                    f"the image is damaged: blocks {entry.first}-{entry.last} differ", "copy or build it again"
                )
        _skip(stream, image.block_map.image_size - position)
    os.fsync(descriptor)
    _write_all(descriptor, head, 0)
    os.fsync(descriptor)


def _read_back(block_map: BlockMap, target: Path, descriptor: int, advance: Advance) -> None:
    """Compare what the disk itself holds, not what the kernel remembers of it."""
    if target.is_block_device():
        fcntl.ioctl(descriptor, _BLKFLSBUF)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    total = sum(entry.size for entry in block_map.ranges)
    done = 0
    direct, reading = _open_direct(target)
    try:
        with mmap.mmap(-1, _CHUNK) as buffer:  # O_DIRECT wants aligned memory, which a mapping is
            for entry in block_map.ranges:
                digest = hashlib.sha256()
                for start in range(entry.start, entry.start + entry.size, _CHUNK):
                    length = min(_CHUNK, entry.start + entry.size - start)
                    got = os.preadv(reading, [memoryview(buffer)[:length]], start)
                    digest.update(buffer[:got])
                    done += length
                    advance(done / total, f"{done / 10**6:.0f} of {total / 10**6:.0f} MB")
                if digest.hexdigest() != entry.sha256:
                    raise BuildError(
                        f"{target} does not hold what was written (direct: {direct}): blocks {entry.first}-{entry.last}"
                        " differ",
                        "flash again; if it recurs, another disk",
                    )
    finally:
        os.close(reading)


def _open_direct(target: Path) -> tuple[bool, int]:
    try:
        return True, os.open(target, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECT)
    except OSError:  # a file on a tmpfs, which no disk is behind
        return False, os.open(target, os.O_RDONLY | os.O_CLOEXEC)


@contextmanager
def _unpacked(packed: Path, tools: Sandbox) -> Iterator[IO[bytes]]:
    command = tools.command(Packing.of(packed).unpack)
    with packed.open("rb") as stream, subprocess.Popen(command, stdin=stream, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            yield process.stdout
            # Checks of the packed file as a whole come at its end.
            if process.stdout.read(1) or process.wait() != 0:
                raise BuildError(f"{packed} is damaged at its end", "copy or build it again")
        finally:
            process.kill()


def _chunks(stream: IO[bytes], size: int) -> Iterator[bytes]:
    while size:
        chunk = stream.read(min(size, _CHUNK))
        if not chunk:
            raise BuildError("the image ends too early", "copy or build it again")
        yield chunk
        size -= len(chunk)


def _skip(stream: IO[bytes], size: int) -> None:
    for _ in _chunks(stream, size):
        pass


def _write_all(descriptor: int, data: bytes, position: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, position)
        view, position = view[written:], position + written
