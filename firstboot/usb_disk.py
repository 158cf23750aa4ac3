"""Making an empty USB disk the one for data: a GPT with one partition, and btrfs in it.

systemd-repart(8) makes the file system first and the table after it, so that a disk whose making a power cut has ended
is still empty, but for one moment: the table is some fifty sectors at both ends of the disk. Its content follows from a
seed that is kept on `state` before; a disk on which each of these sectors is as the seed says or zero, and not all of
them are there yet, is none but the one that this device was making.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from uuid import UUID

from firstboot.partitions import run

EDGE = 2**20
"""Bytes at each end of a disk that are zeros when it is empty, and hold the table afterwards."""

SMALLEST = 8 * 10**9
"""Bytes; mail needs some room."""

_DEFINITIONS = Path("/usr/share/darkpipe/data-disk.d")
_BARE_DEFINITIONS = Path("/usr/share/darkpipe/bare-data-disk.d")
"""The same table, with nothing in the partition: it is going to be encrypted."""

_IN_MEMORY = Path("/run")

_SECTOR = 512

Edges = tuple[bytes, bytes]
"""What lies at the beginning and at the end of a disk."""


def read_edges(device: Path) -> Edges:
    """Read both ends of a disk.

    Raises:
        OSError: it cannot be read.
    """
    with device.open("rb") as file:
        first = file.read(EDGE)
        file.seek(-EDGE, os.SEEK_END)
        return first, file.read(EDGE)


def make_usb_disk(device: Path, seed: UUID, *, unfinished: bool, bare: bool = False) -> None:
    """Make the table and the file system on an empty disk.

    Args:
        seed: where its identifiers come from; it is kept durably already.
        unfinished: whether this was tried before and a part of the table is there.
        bare: whether the partition stays without a file system.

    Raises:
        subprocess.CalledProcessError: systemd-repart(8) refuses the disk or cannot write it.
        OSError: the disk cannot be written.
    """
    if unfinished:
        _clear(device)
    # It refuses a disk that has a table; what else makes a disk one with something on it was judged before.
    run(
        "systemd-repart",
        "--dry-run=no",
        "--empty=require",
        f"--seed={seed}",
        f"--definitions={_BARE_DEFINITIONS if bare else _DEFINITIONS}",
        str(device),
    )


def is_unfinished(device: Path, edges: Edges, sector: int, seed: UUID, *, bare: bool = False) -> bool:
    """Tell whether a power cut has left on a disk a part of the table that this device was writing.

    Args:
        edges: of the disk.
        sector: size of its logical sectors in bytes.
        seed: of the table.
        bare: whether the partition was to stay empty. Then a whole table, too, is only a part of what was to be done:
            that the disk is taken into use has not been recorded.

    Raises:
        subprocess.CalledProcessError: systemd-repart(8) cannot make this table.
        OSError: the disk cannot be read.
    """
    expected = _expected(device, sector, seed)
    return is_part_of(edges, expected) or (bare and edges == expected)


def is_part_of(edges: Edges, expected: Edges) -> bool:
    """Tell whether each sector is as expected or zero, some of the former and some of the latter."""
    found, wanted = _sectors(edges), _sectors(expected)
    written = [sector for sector, right in zip(found, wanted, strict=True) if any(right)]
    return (
        any(map(any, written))
        and found != wanted
        and all(sector == right or not any(sector) for sector, right in zip(found, wanted, strict=True))
    )


def _expected(device: Path, sector: int, seed: UUID) -> Edges:
    """Have systemd-repart make the same table on a file of the same size, which takes no room."""
    with device.open("rb") as disk:
        size = disk.seek(0, os.SEEK_END)
    with tempfile.NamedTemporaryFile(dir=_IN_MEMORY, prefix="darkpipe-table-") as file:
        file.truncate(size)
        # Bare, and not deferred: what is deferred is left out of the table, too (systemd-repart(8)).
        options = ("--empty=require", f"--sector-size={sector}", f"--seed={seed}", f"--definitions={_BARE_DEFINITIONS}")
        run("systemd-repart", "--dry-run=no", *options, file.name)
        return read_edges(Path(file.name))


def _clear(device: Path) -> None:
    descriptor = os.open(device, os.O_RDWR)
    try:
        # What another cut leaves of it is still a part of the table.
        for place in (os.lseek(descriptor, 0, os.SEEK_END) - EDGE, 0):
            os.pwrite(descriptor, bytes(EDGE), place)
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sectors(edges: Edges) -> list[bytes]:
    content = b"".join(edges)
    return [content[place : place + _SECTOR] for place in range(0, len(content), _SECTOR)]
