"""The key with which postsrsd signs the addresses that it makes, so that nobody else can make one (SRS)."""

from __future__ import annotations

import secrets
from pathlib import Path

from stack.durable import write_atomically

_BYTES = 32


def ensure_srs_key(path: Path) -> bool:
    """Make the key, unless there is one: with another one, bounces of all mail that was forwarded before would be lost.

    Returns:
        Whether it was made.
    """
    if path.exists():
        return False
    write_atomically(path, secrets.token_hex(_BYTES).encode() + b"\n", 0o600)
    return True
