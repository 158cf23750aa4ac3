"""The tunnel between home and relay: what each end must know of it. Both ends read it from a file like this one.

A WireGuard key is 32 octets in base64 (wg(8)); a private one never leaves the machine that it belongs to, but for the
bootstrap, whose relay half travels in the user-data and whose home half in the seed.
"""

from __future__ import annotations

import base64
import binascii
from ipaddress import IPv4Address, IPv6Address
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema

from model import names

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

HOME_FILE = "relay.json"
"""Name of home's file, on the boot partition while it is a seed and in the folder of the agent's data later."""


def _key(text: str) -> str:
    try:
        decoded = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        decoded = b""
    if len(decoded) != 32 or base64.b64encode(decoded).decode() != text:
        raise ValueError("expected a WireGuard key: 32 octets in base64, as `wg genkey` prints it")
    return text


def _tunnel4(address: IPv4Address) -> IPv4Address:
    if not address.is_private or address.is_loopback or address.is_link_local:
        raise ValueError("expected a private IPv4 address (RFC 1918)")
    return address


def _tunnel6(address: IPv6Address) -> IPv6Address:
    if address.packed[0] != 0xFD:
        raise ValueError("expected a unique local IPv6 address, fd… (RFC 4193 §3.1)")
    return address


Key = Annotated[str, AfterValidator(_key), WithJsonSchema({"type": "string", "pattern": "^[A-Za-z0-9+/]{43}=$"})]
Address4 = Annotated[IPv4Address, AfterValidator(_tunnel4)]
Address6 = Annotated[IPv6Address, AfterValidator(_tunnel6)]


class _Strict(BaseModel):
    # Pydantic would quote the input in its errors, and with it a private key.
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class Addresses(_Strict):
    """The addresses of the two ends inside the tunnel.

    HAProxy reaches home over IPv6, which clashes with no network at home; IPv4 is for mail that goes out.
    """

    home4: Address4
    relay4: Address4
    home6: Address6
    relay6: Address6


class HomeEnd(_Strict):
    """What home must know.

    Args:
        private_key: home's own. A secret.
        relay_key: the relay's public key.
        relay: name or IP address of the relay.
        port: its UDP port.
    """

    version: Literal[1] = 1
    private_key: Key = Field(repr=False)
    relay_key: Key
    relay: Annotated[str, AfterValidator(names.host)]
    port: Annotated[int, Field(ge=1, le=65535)] = LISTEN_PORT
    addresses: Addresses


class RelayEnd(_Strict):
    """What the relay must know.

    Args:
        private_key: the relay's own. A secret.
        home_key: home's public key.
        port: UDP port to listen on.
    """

    version: Literal[1] = 1
    private_key: Key = Field(repr=False)
    home_key: Key
    port: Annotated[int, Field(ge=1, le=65535)] = LISTEN_PORT
    addresses: Addresses
