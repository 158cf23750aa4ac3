"""The tunnel between home and relay: what each end must know of it. Both ends read it from a file like this one.

A WireGuard key is 32 octets in base64 (wg(8)); a private one never leaves the machine that it belongs to, but for the
bootstrap, whose relay half travels in the user-data and whose home half in the seed.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema

from model import names
from model.wireguard import HOME_INTERFACE, LISTEN_PORT, MTU, RELAY_INTERFACE, check_key

__all__ = ["HOME_FILE", "HOME_INTERFACE", "LISTEN_PORT", "MTU", "RELAY_INTERFACE", "Addresses", "HomeEnd", "RelayEnd"]

HOME_FILE = "relay.json"
"""Name of home's file, on the boot partition while it is a seed and in the folder of the agent's data later."""


def _tunnel4(address: IPv4Address) -> IPv4Address:
    if not address.is_private or address.is_loopback or address.is_link_local:
        raise ValueError("expected a private IPv4 address (RFC 1918)")
    return address


def _tunnel6(address: IPv6Address) -> IPv6Address:
    if address.packed[0] != 0xFD:
        raise ValueError("expected a unique local IPv6 address, fd… (RFC 4193 §3.1)")
    return address


Key = Annotated[str, AfterValidator(check_key), WithJsonSchema({"type": "string", "pattern": "^[A-Za-z0-9+/]{43}=$"})]
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
