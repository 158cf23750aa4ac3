"""Two file trees, compared by what belongs to a file: kind, content, mode, owner, time, extended attributes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

Listing = Mapping[str, Mapping[str, object]]
"""Path to properties."""

LIST_TREE = """\
import hashlib, json, os, stat, sys
root = sys.argv[1]
for folder, folders, files in os.walk(root):
    for name in [".", *files, *(f for f in folders if os.path.islink(os.path.join(folder, f)))]:
        path = os.path.normpath(os.path.join(folder, name))
        s = os.lstat(path)
        row = {"kind": stat.filemode(s.st_mode)[0], "mode": oct(stat.S_IMODE(s.st_mode)),
               "owner": f"{s.st_uid}:{s.st_gid}", "time": s.st_mtime_ns}
        if stat.S_ISLNK(s.st_mode):
            row["target"] = os.readlink(path)
        elif stat.S_ISREG(s.st_mode):
            with open(path, "rb") as file:
                row["content"] = hashlib.file_digest(file, "sha256").hexdigest()
        elif stat.S_ISBLK(s.st_mode) or stat.S_ISCHR(s.st_mode):
            row["device"] = s.st_rdev
        for key in os.listxattr(path, follow_symlinks=False):
            row["xattr " + key] = os.getxattr(path, key, follow_symlinks=False).hex()
        print(json.dumps(["/" + os.path.relpath(path, root), row]))
"""
"""Python for the tools tree: prints one line of JSON for each file below a folder."""


def read_listing(path: Path) -> Listing:
    """Read what LIST_TREE has printed."""
    return dict(json.loads(line) for line in path.read_text(encoding="utf-8", errors="surrogateescape").splitlines())


def differing_files(first: Listing, second: Listing) -> Iterator[str]:
    """Name the files that differ, and in what."""
    for path in sorted({*first, *second}):
        one, two = first.get(path), second.get(path)
        if one is None or two is None:
            yield f"{path}: only in the {'second' if one is None else 'first'}"
        else:
            for key in sorted({*one, *two}):
                if one.get(key) != two.get(key):
                    yield f"{path}: {_change(key, one.get(key), two.get(key))}"


def _change(key: str, one: object, two: object) -> str:
    if key == "content" or max(len(str(one)), len(str(two))) > 80:
        return f"{key} differs"
    return f"{key} {one} → {two}"
