"""What a program writes to a disk, as strace(1) saw it, and what a power cut leaves of that."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

SECTOR = 512
_LONGEST = 2**20
_CALLS = "read,write,pwrite64,lseek,fsync"
_LINE = re.compile(r"^\d+ +(\w+)\((\d+)<([^>]*)>(?:, (.*))?\) += (-?\d+)")


@dataclass(frozen=True)
class Write:
    """What was written where, in bytes."""

    offset: int
    content: bytes


def flush_groups(lines: Sequence[str], disk: Path) -> list[list[Write]]:
    """Read strace's lines: what was written to a disk, in groups that a flush ends; a group may be empty."""
    groups: list[list[Write]] = [[]]
    places: dict[str, int] = {}
    for line in lines:
        found = _LINE.match(line)
        if not found or _text(found[3]) != str(disk):
            continue
        name, file, rest, result = found[1], found[2], found[4] or "", int(found[5])
        if name == "fsync":
            groups.append([])
        elif name == "lseek":
            places[file] = result
        elif name == "pwrite64":
            groups[-1].append(Write(int(rest.split(", ")[-1]), _octets(rest)[:result]))
        else:
            if name == "write":
                groups[-1].append(Write(places.get(file, 0), _octets(rest)[:result]))
            places[file] = places.get(file, 0) + result
    return groups


def _text(path: str) -> str:
    return _octets(f'"{path}"').decode() if "\\x" in path else path


def _octets(rest: str) -> bytes:
    return bytes.fromhex(rest.split('"')[1].replace("\\x", ""))


def cuts(groups: Sequence[Sequence[Write]]) -> Iterator[list[Write]]:
    """Give what a cut may leave of some writes, on a disk that keeps each sector whole, and all that was flushed."""
    kept: list[Write] = []
    for group in groups:
        for count in range(len(group) + 1):
            for chosen in itertools.combinations(group, count):
                yield [*kept, *chosen]
                if chosen:
                    *whole, last = chosen
                    for sectors in {1, len(last.content) // SECTOR - 1} - {0, -1}:
                        yield [*kept, *whole, Write(last.offset, last.content[: sectors * SECTOR])]
        kept += group


def applied(image: bytes, writes: Sequence[Write]) -> bytes:
    """Give a disk's content after some writes."""
    made = bytearray(image)
    for write in writes:
        made[write.offset : write.offset + len(write.content)] = write.content
    return bytes(made)


def wrap(root: Path, program: str, folder: Path) -> Path:
    """Make a command of the device's that runs here, and is recorded while the environment has RECORD, a file's name.

    Args:
        root: the unpacked root of the device.
        program: its path in it.
    """
    library = root / "usr/lib/x86_64-linux-gnu"
    command = f"{root}/usr/lib64/ld-linux-x86-64.so.2 --library-path {library}:{library}/systemd {root}/{program}"
    wrapper = folder / Path(program).name
    wrapper.write_text(
        "#!/bin/sh\n"
        f'[ -n "$RECORD" ] || exec {command} "$@"\n'
        f'exec strace -f -A -qq -y -xx -s {_LONGEST} -o "$RECORD" -e trace={_CALLS} {command} "$@"\n'
    )
    wrapper.chmod(0o755)
    return wrapper
