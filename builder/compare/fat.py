"""Who owns each byte of a FAT32 file system (Microsoft's FAT specification 1.03): mtools lists files, not bytes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from builder.compare.reader import Reader
from builder.compare.regions import Region

_ENTRY = 32
_LONG_NAME = 0x0F
_VOLUME = 0x08
_DIRECTORY = 0x10
_END = 0x0FFFFFF8
_BAD = 0x0FFFFFF7


@dataclass(frozen=True)
class File:
    """A file of the file system.

    Args:
        path: below the root, with slashes.
        size: in bytes.
        runs: where its content lies: (offset in the partition, offset in the file, length), clusters in their order.
    """

    path: str
    size: int
    runs: tuple[tuple[int, int, int], ...]


class Fat:
    """A FAT32 file system.

    Raises:
        ValueError: it is none, or it is damaged.
    """

    def __init__(self, partition: Reader) -> None:
        self._partition = partition
        sector, per_cluster, self._reserved, self._tables = partition.unpack("<HBHB", 11)
        (self._table_size,) = partition.unpack("<I", 36)
        (self._root,) = partition.unpack("<I", 44)
        if partition.read(510, 2) != b"\x55\xaa" or sector not in (512, 4096) or not per_cluster or self._tables != 2:
            raise ValueError("there is no FAT32 file system")
        self._sector = sector
        self._cluster = sector * per_cluster
        self._data = (self._reserved + self._tables * self._table_size) * sector
        table = partition.read(self._reserved * sector, self._table_size * sector)
        if partition.read(0, sector) != partition.read(6 * sector, sector):
            raise ValueError("the boot sector and its backup differ")
        if table != partition.read((self._reserved + self._table_size) * sector, len(table)):
            raise ValueError("the file allocation tables differ")
        self._next = memoryview(table).cast("I")

    def regions(self) -> Iterator[Region]:
        """Name every byte, the general before the special."""
        sector, table = self._sector, self._table_size * self._sector
        yield Region(0, self._partition.size, "free space")
        yield Region(0, self._reserved * sector, "reserved sectors")
        yield Region(0, sector, "boot sector")
        yield Region(sector, 2 * sector, "FSInfo sector")
        yield Region(6 * sector, 7 * sector, "backup of the boot sector")
        yield Region(7 * sector, 8 * sector, "backup of the FSInfo sector")
        for number in range(self._tables):
            start = self._reserved * sector + number * table
            yield Region(start, start + table, f"file allocation table {number + 1}")
        for path, cluster, size in self._walk("", self._root):
            name = f"directory /{path}" if size is None else f"/{path}, slack"
            for start, length in self._spans(cluster) if size != 0 else ():
                yield Region(start, start + length, name)
        for file in self.files():
            for start, _, length in file.runs:
                yield Region(start, start + length, f"/{file.path}")

    def files(self) -> Iterator[File]:
        """List all regular files."""
        for path, cluster, size in self._walk("", self._root):
            if size is not None:
                yield File(path, size, tuple(self._runs(cluster, size)))

    def _runs(self, cluster: int, size: int) -> Iterator[tuple[int, int, int]]:
        done = 0
        for start, length in self._spans(cluster) if size else ():
            yield start, done, min(length, size - done)
            done += length
        if not size <= done < size + self._cluster:
            raise ValueError("a file has too few or too many clusters")

    def _spans(self, cluster: int) -> list[tuple[int, int]]:
        """Give a chain's clusters as stretches of the partition: (start, length)."""
        spans: list[tuple[int, int]] = []
        for start in self._chain(cluster):
            if spans and sum(spans[-1]) == start:
                spans[-1] = (spans[-1][0], spans[-1][1] + self._cluster)
            else:
                spans.append((start, self._cluster))
        return spans

    def _walk(self, folder: str, cluster: int) -> Iterator[tuple[str, int, int | None]]:
        """Yield path, first cluster and size (None for a directory) of a directory and all below it."""
        yield folder, cluster, None
        content = b"".join(self._partition.read(start, length) for start, length in self._spans(cluster))
        if folder and content[:11] != b".          ":
            raise ValueError("a directory does not begin with itself")
        long: list[str] = []
        for at in range(0, len(content), _ENTRY):
            entry = content[at : at + _ENTRY]
            if entry[0] == 0:
                return
            if entry[0] == 0xE5:
                long = []
            elif entry[11] & 0x3F == _LONG_NAME:
                part = (entry[1:11] + entry[14:26] + entry[28:32]).decode("utf-16-le", errors="replace")
                long.insert(0, part.split("\0")[0])
            elif not entry[11] & _VOLUME:
                name = "".join(long) or _short_name(entry)
                long = []
                if name not in {".", ".."}:
                    path = f"{folder}/{name}".lstrip("/")
                    first = int.from_bytes(entry[20:22], "little") << 16 | int.from_bytes(entry[26:28], "little")
                    if entry[11] & _DIRECTORY:
                        yield from self._walk(path, first)
                    else:
                        yield path, first, int.from_bytes(entry[28:32], "little")

    def _chain(self, cluster: int) -> Iterator[int]:
        """Yield where a chain's clusters lie in the partition."""
        seen = 0
        while 2 <= cluster < _BAD:
            seen += 1
            if cluster >= len(self._next) or seen > len(self._next):
                raise ValueError("a chain of clusters is damaged")
            yield self._data + (cluster - 2) * self._cluster
            cluster = self._next[cluster] & 0x0FFFFFFF


def _short_name(entry: bytes) -> str:
    name, extension = entry[:8].decode("cp437").rstrip(), entry[8:11].decode("cp437").rstrip()
    # Bits 3 and 4 of this byte: written in lower case (an extension of Windows NT that mtools uses too).
    name = name.lower() if entry[12] & 8 else name
    extension = extension.lower() if entry[12] & 16 else extension
    return f"{name}.{extension}" if extension else name
