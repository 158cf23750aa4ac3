"""Sizes of mailboxes, as people write them: `5G`, `500M`."""

from __future__ import annotations

import re

from model.problems import Kind, Refusal, quoted

_UNITS = {"M": 1024**2, "G": 1024**3, "T": 1024**4}

_QUOTA = re.compile(r"([1-9][0-9]{0,5}) ?([MGT])(?:i?B)?", re.IGNORECASE)

_SMALLEST = 50 * _UNITS["M"]
"""Bytes. One message may be as large; a mailbox that never takes it would be a fault that nobody understands."""

_LARGEST = 1000 * _UNITS["T"]
"""Bytes. More than that is a slip of the finger, and 2^63 is far away."""

_EXPECTED = "a size such as `5G` or `500M`"


def quota(text: str) -> str:
    """Give a quota in its usual form, a number and one of the letters M, G and T.

    Raises:
        Refusal: it is none.
    """
    return quota_text(quota_bytes(text))


def quota_bytes(text: str) -> int:
    """Give a quota in bytes; 1G are 1024^3, as Dovecot counts.

    Raises:
        Refusal: it is none.
    """
    found = _QUOTA.fullmatch(text.strip())
    if not found:
        raise Refusal(
            Kind.BAD_QUOTA, f"{quoted(text)}, which is no size", _EXPECTED, "write a whole number, then M, G or T"
        )
    size = int(found[1]) * _UNITS[found[2].upper()]
    if not _SMALLEST <= size <= _LARGEST:
        remedy = f"choose one from {quota_text(_SMALLEST)} (the largest message) to {quota_text(_LARGEST)}"
        raise Refusal(Kind.BAD_QUOTA, quoted(text), _EXPECTED, remedy)
    return size


def quota_text(size: int) -> str:
    """Write a number of bytes as briefly as it can be read again by `quota_bytes`."""
    for unit in ("T", "G"):
        if size % _UNITS[unit] == 0:
            return f"{size // _UNITS[unit]}{unit}"
    return f"{size // _UNITS['M']}M"
