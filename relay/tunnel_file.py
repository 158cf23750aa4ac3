"""The relay's end of the tunnel, as its files for wg-quick(8) or openvpn(8) have it: what other files must know."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_interface
from pathlib import Path

INTERFACE = "home0"
FILE = Path("etc/wireguard", f"{INTERFACE}.conf")
OPENVPN_FILE = Path("etc/openvpn/server", f"{INTERFACE}.conf")
OPENVPN_HOME = OPENVPN_FILE.with_name("darkpipe-home")
"""Which addresses are home's (--client-config-dir)."""

OPENVPN_ADDRESSES = OPENVPN_FILE.with_suffix(".ip")
"""What ip(8) is told of the interface."""


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
        port: port that the relay listens on, of UDP or, with OpenVPN, of TCP.
        mtls: whether it is OpenVPN's.
    """

    addresses: Addresses
    port: int
    mtls: bool = False


def find_tunnel(root: Path) -> Tunnel:
    """Read the files of this server, of whichever transport they are.

    Args:
        root: the folder in the place of `/`.

    Raises:
        OSError: there is none.
        ValueError: they lack something.
    """
    settings = root / OPENVPN_FILE
    if not settings.exists():
        return read_tunnel((root / FILE).read_text(encoding="utf-8"))
    return read_openvpn(settings.read_text(encoding="utf-8"), (root / OPENVPN_ADDRESSES).read_text(encoding="utf-8"))


def read_openvpn(settings: str, addresses: str) -> Tunnel:
    """Read a file of openvpn(8), and the commands for ip(8) beside it.

    Raises:
        ValueError: they lack something.
    """
    port = [line.split()[1] for line in settings.splitlines() if line.startswith("port ")]
    words = [line.split() for line in addresses.splitlines()]
    own = ",".join(row[2] for row in words if row[:2] == ["address", "replace"])
    other = ",".join(row[2] for row in words if row[:2] == ["route", "replace"])
    if not port or not own or not other:
        raise ValueError(f"{OPENVPN_FILE.name} has no port, or {OPENVPN_ADDRESSES.name} no addresses")
    relay4, relay6 = _pair(own)
    home4, home6 = _pair(other)
    return Tunnel(Addresses(home4, relay4, home6, relay6), int(port[0]), mtls=True)


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
