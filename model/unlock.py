"""What home gives a relay that helps to unlock home's disk: Tang's keys, and the one peer that may ask Tang.

Tang (tangd(8)) never learns the key that it helps to derive, and keeps nothing of a disk (McCallum-Relyea exchange).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv6Address
from typing import Any

from model.control import Message
from model.wireguard import check_key

PATH = "/unlock"
"""`PUT /unlock` to the agent, and `DELETE /unlock` for a disk that its relay does not unlock any more."""

TANG_PORT = 2602
"""TCP port on the relay's address in the boot stage's tunnel."""

BOOT_INTERFACE = "unlock0"
"""Home's end of that tunnel; the relay's is the interface that it has anyhow."""

UNFINISHED = "unfinished"
"""In the place of a digest: keys came or went, and that is not in force yet."""

_LOCAL = 0xFD


@dataclass(frozen=True)
class UnlockKeys(Message):
    """All that the relay needs.

    Args:
        peer: public WireGuard key that home has before its disk is unlocked.
        home6, relay6: addresses of the two ends; no other tunnel has them.
        sign, exchange: Tang's keys, private, as JWK (RFC 7517). They open nothing without home's disk and its `state`.
    """

    peer: str
    home6: str
    relay6: str
    sign: Mapping[str, str] = field(repr=False)
    exchange: Mapping[str, str] = field(repr=False)

    @property
    def digest(self) -> str:
        """What the two say of it to each other."""
        return hashlib.sha256(self.to_json()).hexdigest()

    def __post_init__(self) -> None:
        check_key(self.peer)
        ends = IPv6Address(self.home6), IPv6Address(self.relay6)
        if ends[0] == ends[1] or any(end.packed[0] != _LOCAL for end in ends):
            raise ValueError("home6, relay6: expected two unique local IPv6 addresses, fd… (RFC 4193 §3.1)")
        # They are written into files of the relay's services.
        object.__setattr__(self, "home6", str(ends[0]))
        object.__setattr__(self, "relay6", str(ends[1]))
        given: tuple[Any, Any] = (self.sign, self.exchange)
        if not all(isinstance(key, dict) and all(isinstance(part, str) for part in key.values()) for key in given):
            raise ValueError("sign, exchange: expected objects of texts")
        for key, use in ((self.sign, "ES512"), (self.exchange, "ECMR")):
            if key.get("alg") != use or key.get("kty") != "EC" or not key.get("d"):
                raise ValueError(f"found no private key for {use}")
