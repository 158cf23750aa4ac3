"""The cache's size: a limit, and which entries go when it is passed."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from builder.cache import Cache, Entry
from builder.errors import BuildError

SIZE_VARIABLE = "DARKPIPE_CACHE_SIZE"
"""Environment variable with the limit."""

DEFAULT_LIMIT = 6 * 10**9
"""Bytes. One site with its tools takes about 2 GB, and each change about 1 GB: there is room for going back and forth
between a few, and all stays below the 8 GB that the README asks for."""

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def parse_size(text: str, name: str) -> int:
    """Read a size such as `12G` (10^9 bytes each, as on a disk's label).

    Args:
        name: where it was written, for the message.

    Raises:
        BuildError: it is no size.
    """
    match = re.fullmatch(r"(\d+)\s*([KMGT]?)B?", text.strip(), re.ASCII | re.IGNORECASE)
    if not match:
        raise BuildError(f"{name}: {text!r} is no size", "write it as 12G or 500M")
    return int(match[1]) * _UNITS[match[2].upper()]


def limit_from_environment() -> int:
    """Give the limit in bytes: `$DARKPIPE_CACHE_SIZE`, or the default.

    Raises:
        BuildError: the variable holds no size.
    """
    text = os.environ.get(SIZE_VARIABLE, "")
    return parse_size(text, SIZE_VARIABLE) if text.strip() else DEFAULT_LIMIT


def surplus(entries: Sequence[Entry], limit: int) -> list[Entry]:
    """Choose what has to go so that the rest takes no more than a limit.

    Args:
        entries: what could go, the least recently used first.
        limit: in bytes.
    """
    total = sum(entry.size for entry in entries)
    chosen = []
    for entry in entries:
        if total <= limit:
            break
        total -= entry.size
        chosen.append(entry)
    return chosen


def shrink(cache: Cache, limit: int, *, dry_run: bool = False) -> list[Entry]:
    """Remove the least recently used entries until the others fit into a limit.

    What a running build uses stays, and counts.

    Args:
        limit: in bytes.
        dry_run: remove nothing.

    Returns:
        What was removed, or would be.
    """
    entries = cache.entries()
    busy = [entry for entry in entries if cache.in_use(entry)]
    idle = [entry for entry in entries if entry not in busy]
    chosen = surplus(idle, limit - sum(entry.size for entry in busy))
    return [entry for entry in chosen if dry_run or cache.evict(entry)]
