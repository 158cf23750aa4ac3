"""Public SSH keys as a line of authorized_keys (sshd(8)) without options: type, key, comment."""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from typing import Self

_LINE = re.compile(r"((?:ssh|ecdsa|sk-ssh|sk-ecdsa)-[a-z0-9@.-]+) ([A-Za-z0-9+/]+={0,2})(?: ([^\x00-\x1f\x7f]*))?")


@dataclass(frozen=True)
class PublicKey:
    """A key that sshd takes.

    Args:
        kind: such as `ssh-ed25519`.
        key: in Base64.
        comment: whatever its owner has called it; no part of the key.
    """

    kind: str
    key: str
    comment: str

    @classmethod
    def parse(cls, line: str) -> Self | None:
        """Take a line apart; None when it is no whole key of a type that sshd takes."""
        match = _LINE.fullmatch(line)
        return cls(match[1], match[2], match[3] or "") if match and _is_whole(match[1], match[2]) else None


def _is_whole(kind: str, key: str) -> bool:
    try:
        blob = base64.b64decode(key, validate=True)
    except binascii.Error:
        return False
    # RFC 4253 §6.6: strings with their length before them, of which the first is the type. A key that was cut ends
    # inside one, and would lock its owner out.
    strings = []
    while blob:
        length = int.from_bytes(blob[:4])
        if len(blob) < 4 + length:
            return False
        strings.append(blob[4 : 4 + length])
        blob = blob[4 + length :]
    return len(strings) > 1 and strings[0] == kind.encode() and kind != "ssh-dss"
