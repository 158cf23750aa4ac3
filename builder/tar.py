"""Tars that are the same for the same files, and that can be joined."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

from builder.packages import BUILD_EPOCH

_BLOCK = 512


def write_tar(path: str, tree: Path) -> None:
    """Pack a folder so that the same files give the same bytes, whatever the host's users, clocks and umask.

    Directories are written too; all belongs to root; a file is executable for all or for none.
    """
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for entry in _sorted_entries(tree):
            member = tar.gettarinfo(str(entry), arcname=f"./{entry.relative_to(tree)}")
            member.uid = member.gid = 0
            member.uname = member.gname = ""
            member.mtime = BUILD_EPOCH
            if member.isfile():
                member.mode = 0o755 if member.mode & 0o100 else 0o644
                with entry.open("rb") as file:
                    tar.addfile(member, file)
            else:
                member.mode = 0o777 if member.issym() else 0o755
                tar.addfile(member)


def _sorted_entries(tree: Path) -> Iterator[Path]:
    for folder, folders, files in os.walk(tree):
        folders.sort()
        names = sorted([*files, *folders])
        yield from (Path(folder) / name for name in names)


def end_of_members(path: Path) -> int:
    """Find where a tar's end-of-archive blocks begin, so that another may be appended (POSIX pax, ustar).

    Returns:
        An offset in bytes, a multiple of 512.
    """
    end = 0
    with tarfile.open(path, "r:") as tar:
        for member in tar:
            end = member.offset_data + (member.size if member.isfile() else 0)
            end += -end % _BLOCK
    return end
