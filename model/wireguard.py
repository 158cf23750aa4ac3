"""WireGuard, as both ends of the tunnel see it (wg(8)); nothing but the standard library."""

from __future__ import annotations

import base64
import binascii

HOME_INTERFACE = "relay0"
"""The tunnel's network interface at home, named after what is at its other end."""

RELAY_INTERFACE = "home0"
"""The same on the relay."""

LISTEN_PORT = 51820
"""UDP port on which the relay listens; home has none of its own and is found by the packets that it sends."""

MTU = 1280
"""Octets of the largest packet inside the tunnel, the least that IPv6 allows (RFC 8200 §5).

With WireGuard's 60 (IPv4) or 80 octets (IPv6) around it, it passes where 1360 octets do: PPPoE, DS-Lite, LTE, and most
tunnels that a provider hides. A larger one gains 8 % at best and is lost in a path that swallows "packet too big".
"""


def check_key(text: str) -> str:
    """Give back a key, private or public: 32 octets in base64.

    Raises:
        ValueError: it is something else; the text quotes nothing of it.
    """
    try:
        decoded = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError, TypeError):
        decoded = b""
    if len(decoded) != 32 or base64.b64encode(decoded).decode() != text:
        raise ValueError("expected a WireGuard key: 32 octets in base64, as `wg genkey` prints it")
    return text
