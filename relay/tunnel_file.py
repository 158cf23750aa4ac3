"""The relay's end of the tunnel, as its file for wg-quick(8) has it: what other files must know of it."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_interface
from pathlib import Path

INTERFACE = "home0"
FILE = Path("etc/wireguard", f"{INTERFACE}.conf")


@dataclass(frozen=True)
class Addresses:
    """The addresses of the two ends."""

    home4: IPv4Address
    relay4: IPv4Address
    home6: IPv6Address
    relay6: IPv6Address


@dataclass(frozen=True)
class Tunnel:
    """What is no secret.

    Args:
        port: UDP port that the relay listens on.
    """

    addresses: Addresses
    port: int


def read_tunnel(text: str) -> Tunnel:
    """Read a file of wg-quick(8); with several peers the last one is home's.

    Raises:
        ValueError: it lacks something.
    """
    rows = (line.partition("#")[0].partition("=") for line in text.splitlines())
    found = {name.strip(): value.strip() for name, _, value in rows}
    try:
        relay4, relay6 = _pair(found["Address"])
        home4, home6 = _pair(found["AllowedIPs"])
        return Tunnel(Addresses(home4, relay4, home6, relay6), int(found["ListenPort"]))
    except KeyError as error:
        raise ValueError(f"{FILE.name} has no {error.args[0]}") from None


def _pair(text: str) -> tuple[IPv4Address, IPv6Address]:
    addresses = [ip_interface(word.strip()).ip for word in text.split(",")]
    four = [address for address in addresses if isinstance(address, IPv4Address)]
    six = [address for address in addresses if isinstance(address, IPv6Address)]
    if not four or not six:
        raise ValueError(f"expected an address of IPv4 and one of IPv6, found {text}")
    return four[0], six[0]
