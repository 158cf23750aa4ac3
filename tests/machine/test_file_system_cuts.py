"""A power cut at each point of the growth of the file system for data, by the kernel's own btrfs on a disk of a file.

A card or disk has become larger, the partition has grown (test_grow_cuts.py), and a start lets btrfs fill it. All that
the kernel writes meanwhile is logged, and replayed up to each point, with a choice of what no flush has forced onto the
disk, torn between sectors of 512 bytes. Then the next start has to mount it, find every file that was synced, and end
the growth.

In a LUKS2 container the same writes reach the disk, each 16 bytes or each sector of 512 as torn as here
(`firstboot/cipher.py`); the container itself ends where its partition does, and nothing is written when that grows
(test_luks_cuts.py).
"""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from builder.archive import Archive
from builder.cache import Cache
from builder.progress import Stages
from builder.sandbox import remove_tree
from builder.tools import EMULATOR, open_tools
from firstboot import disk as device_disk
from firstboot.partitions import run
from model.layout import FileSystem
from tests.machine.writes import wrap
from tests.power.logged_disk import SECTOR, attached, lacking, logged
from tests.power.recording import copy_sparse
from tests.power.write_log import Flag, Piece, WriteLog, write_pieces

_SMALL, _LARGE = 256 * 2**20, 2**30
_SUPERBLOCK, _SUPERBLOCK_SIZE = 65536, 4096
_CHOICES = 3
"""Choices of what has reached the disk, for each point."""


@dataclass(frozen=True)
class Synced:
    """A file that was on the disk, whatever came after.

    Args:
        position: in the log, when it was.
    """

    name: str
    content: bytes
    position: int


@dataclass(frozen=True)
class Growth:
    """A life of the disk, in the middle of which it grew.

    Args:
        before: the disk with a file system that fills a part of it.
        begun, ended: positions in the log between which it grew.
    """

    before: Path
    log: WriteLog
    begun: int
    ended: int
    files: tuple[Synced, ...]


@pytest.fixture(scope="module", autouse=True)
def _tools(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The device's btrfs-progs as commands."""
    if reason := lacking():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("tools")
    for program in ("usr/bin/btrfs", "usr/sbin/mkfs.btrfs"):
        wrap(root, program, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{folder}:/usr/sbin:/usr/bin:/sbin:/bin")
        patch.delenv("RECORD", raising=False)
        yield


@pytest.fixture(scope="module")
def growth(tmp_path_factory: pytest.TempPathFactory) -> Growth:
    """What was recorded."""
    folder = tmp_path_factory.mktemp("growth")
    disk, before, log, place = folder / "disk", folder / "before", folder / "log", folder / "data"
    place.mkdir()
    with disk.open("wb") as file:
        file.truncate(_LARGE)
    run("mkfs.btrfs", "--quiet", "--byte-count", str(_SMALL), "--label", "darkpipe-data", str(disk))
    copy_sparse(disk, before)
    qemu = open_tools(EMULATOR, Cache(Cache.default().root, remove_tree), Archive.from_environment(), Stages())
    rng, written = random.Random(9), []
    with logged(qemu.tree, disk, log) as device:
        _mount(device, place)

        def write(name: str, size: int) -> None:
            content = rng.randbytes(size)
            path = place / name
            path.write_bytes(content)
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)
            written.append((name, content, log.stat().st_size))

        for number, size in enumerate((100, 5_000, 300_000)):
            write(f"before-{number}", size)
        os.sync()
        write("in the log of the tree", 20_000)
        begun = log.stat().st_size
        _grow(place)
        ended = log.stat().st_size
        write("after", 300_000)
        run("umount", str(place))
    read = WriteLog.read(log)
    files = tuple(Synced(name, content, read.position_of_size(size)) for name, content, size in written)
    return Growth(before, read, read.position_of_size(begun), read.position_of_size(ended), files)


def _mount(device: Path, place: Path) -> None:
    """Mount it as a start does, torn superblock and all."""
    device_disk._mount(device, place, FileSystem.BTRFS, "noatime,compress=zstd:1")


def _grow(place: Path) -> None:
    """Let it fill the disk, as each start does."""
    run("btrfs", "filesystem", "resize", "max", str(place))


def _cut(growth: Growth, log: WriteLog, position: int, pieces: Sequence[Piece], disk: Path) -> None:
    copy_sparse(growth.before, disk)
    write_pieces(log.durable(0, log.last_flush(position)), log.path, disk)
    write_pieces(pieces, log.path, disk)


def _wrong(growth: Growth, position: int, disk: Path) -> list[str]:
    """Start with the disk of a cut, and say what is wrong; nothing is the hope."""
    place = disk.with_suffix(".d")
    place.mkdir(exist_ok=True)
    with attached(disk) as device:
        try:
            _mount(device, place)
        except subprocess.CalledProcessError as error:
            return [f"it cannot be mounted: {error.stdout}"]
        try:
            _grow(place)
            wrong = [
                f"{file.name} is lost or damaged"
                for file in growth.files
                if file.position <= position and _content(place / file.name) != file.content
            ]
            (place / "new").write_bytes(b"mail goes on")
            sizes = os.statvfs(place)
            if sizes.f_blocks * sizes.f_frsize != _LARGE:
                wrong.append("it has not grown")
        except (OSError, subprocess.CalledProcessError) as error:
            wrong = [str(error)]
        finally:
            run("umount", str(place))
    # Not on the device, of which the kernel may keep what others have read before the file system wrote.
    command = ("btrfs", "check", "--readonly", str(disk))
    checked = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    return [*wrong, f"btrfs check: {checked.stdout}"] if checked.returncode else wrong


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


def _torn_superblocks(growth: Growth, position: int) -> Iterator[list[Piece]]:
    """Give each way in which a cut tears the superblock that is written last, from the front and from the back."""
    request = growth.log.requests[position - 1]
    if (request.offset, request.length) != (_SUPERBLOCK, _SUPERBLOCK_SIZE):
        return
    whole = list(growth.log.durable(growth.log.last_flush(position), position - 1))
    for cut in range(SECTOR, _SUPERBLOCK_SIZE, SECTOR):
        yield [*whole, Piece(request.offset, cut, request.data_at)]
        yield [*whole, Piece(request.offset + cut, request.length - cut, request.data_at + cut)]


def _cuts(growth: Growth) -> Iterator[tuple[int, str, list[Piece]]]:
    for position in range(growth.begun, growth.ended + 1):
        yield position, "nothing in the air", list(growth.log.in_the_air(position, None))
        for seed in range(_CHOICES):
            yield position, f"choice {seed}", list(growth.log.in_the_air(position, random.Random(seed)))
        for number, pieces in enumerate(_torn_superblocks(growth, position)):
            yield position, f"superblock torn {number}", pieces


def test_cut_anywhere_the_next_start_ends_the_growth_and_every_synced_file_is_whole(
    growth: Growth, tmp_path: Path
) -> None:
    between = growth.log.requests[growth.begun : growth.ended]
    assert any(request.flags & Flag.FLUSH for request in between)
    assert any(request.offset == _SUPERBLOCK for request in between)
    assert sum(file.position <= growth.begun for file in growth.files) == len(growth.files) - 1
    torn = 0
    for position, what, pieces in _cuts(growth):
        _cut(growth, growth.log, position, pieces, tmp_path / "cut")
        assert _wrong(growth, position, tmp_path / "cut") == [], f"cut at {position}, {what}"
        torn += what.startswith("superblock")
    assert torn >= 2 * (_SUPERBLOCK_SIZE // SECTOR - 1)


def test_a_disk_that_does_not_flush_is_found_out(growth: Growth, tmp_path: Path) -> None:
    """The control: with the flushes of the growth taken away, some choice leaves a disk that is refused."""
    between = range(growth.begun, growth.ended)
    requests = tuple(
        replace(request, flags=request.flags & ~(Flag.FLUSH | Flag.FUA)) if number in between else request
        for number, request in enumerate(growth.log.requests)
    )
    log = replace(growth.log, requests=requests)
    for seed in range(20):
        pieces = list(log.in_the_air(growth.ended, random.Random(seed)))
        _cut(growth, log, growth.ended, pieces, tmp_path / "cut")
        if _wrong(growth, growth.ended, tmp_path / "cut"):
            return
    raise AssertionError("no choice was found out")


def test_a_file_that_is_lost_is_found_out(growth: Growth, tmp_path: Path) -> None:
    """The control: a file that only later came is asked for."""
    _cut(growth, growth.log, growth.begun, [], tmp_path / "cut")
    early = replace(growth, files=tuple(replace(file, position=0) for file in growth.files))
    assert _wrong(early, growth.begun, tmp_path / "cut") == ["after is lost or damaged"]
