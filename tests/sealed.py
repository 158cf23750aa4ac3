"""What lies in a store of the relay, as home would get it."""

from __future__ import annotations

from io import BytesIO

import pyrage

from model.envelope import Envelope
from relay.spool import Spool


def sealed(spool: Spool, name: str) -> bytes:
    """Give an item's ciphertext."""
    content = spool.open(name)
    return content.file.read_bytes() if content.file else b"".join(content.pieces)


def opened(spool: Spool, key: pyrage.x25519.Identity) -> list[tuple[Envelope, bytes]]:
    """Give all envelopes and messages, in their order."""
    found = []
    for item in spool.items():
        content = BytesIO(pyrage.decrypt(sealed(spool, item.id), [key]))
        found.append((Envelope.read(content), content.read()))
    return found
