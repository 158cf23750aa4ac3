"""Keys by which a relay helps to unlock a disk; nothing but their form is right."""

from __future__ import annotations

from ipaddress import IPv6Address
from uuid import UUID

from home.unlock_keys import UnlockKeysFile

DISK = UUID(int=7)
JWK = {"kty": "EC", "crv": "P-521", "x": "AA", "y": "AA", "d": "AA"}
WIREGUARD = ["A" * 42 + "A=", "B" * 42 + "A=", "C" * 42 + "A="]


def some_unlock_keys(disk: UUID = DISK) -> UnlockKeysFile:
    """Give all of a home's."""
    return UnlockKeysFile(
        disk=disk,
        private_key=WIREGUARD[0],
        peer=WIREGUARD[1],
        home6=IPv6Address("fd00::2"),
        relay6=IPv6Address("fd00::1"),
        sign={**JWK, "alg": "ES512"},
        exchange={**JWK, "alg": "ECMR"},
        thumbprint="thumb",
    )
