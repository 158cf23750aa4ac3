"""The word for the relay: how darkpipe-verdict writes it, and how darkpipe-ready, which does little else, reads it."""

from __future__ import annotations

import re
from pathlib import Path

VERDICT = Path("/run/darkpipe-verdict/word")
"""One line: the moment of CLOCK_MONOTONIC at which it was written, a blank, and the word."""

OLD = 10.0
"""Seconds after which nobody knows whether a verdict still holds."""

UP = "up"
_LONGEST = 60


def down(reason: str) -> str:
    """Write the word for "no", with a reason that HAProxy shows (its configuration manual, agent-check).

    Only what nobody takes for another word, and little of it: it is for a machine that is not ours alone.
    """
    return f"down#{re.sub(r'[^A-Za-z0-9.:/()-]+', ' ', reason)[:_LONGEST].strip()}"


def word_of(line: str, now: float) -> str:
    """Read the verdict's file.

    Args:
        now: seconds of CLOCK_MONOTONIC.
    """
    moment, _, word = line.strip().partition(" ")
    try:
        age = now - float(moment)
    except ValueError:
        return down("unknown")
    return word if 0 <= age <= OLD and word else down("stale")
