"""Lengths of time, as people write them: `7d`, `36h`."""

from __future__ import annotations

import re

from model.problems import Kind, Refusal, quoted

_UNITS = {"h": 3600, "d": 24 * 3600}

_DURATION = re.compile(r"([1-9][0-9]{0,3}) ?([hd])", re.IGNORECASE)

_LONGEST = 60 * _UNITS["d"]
"""Seconds. Who sends a message wants to know within weeks that nobody got it."""

_EXPECTED = "a time such as `7d` or `36h`"


def duration(text: str) -> str:
    """Give a length of time in its usual form, a number and one of the letters h (hours) and d (days).

    Raises:
        Refusal: it is none.
    """
    seconds = duration_seconds(text)
    unit = "d" if seconds % _UNITS["d"] == 0 else "h"
    return f"{seconds // _UNITS[unit]}{unit}"


def duration_seconds(text: str) -> int:
    """Give a length of time in seconds.

    Raises:
        Refusal: it is none.
    """
    found = _DURATION.fullmatch(text.strip())
    if not found:
        raise Refusal(
            Kind.BAD_DURATION, f"{quoted(text)}, which is no time", _EXPECTED, "write a whole number, then h or d"
        )
    seconds = int(found[1]) * _UNITS[found[2].lower()]
    if seconds > _LONGEST:
        raise Refusal(Kind.BAD_DURATION, quoted(text), _EXPECTED, f"choose one up to {_LONGEST // _UNITS['d']}d")
    return seconds
