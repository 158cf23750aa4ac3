"""Which names and addresses are the home's own."""

from __future__ import annotations

import ipaddress

_HOME = tuple(
    map(ipaddress.ip_network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "fc00::/7"))
)
"""Private and link-local addresses: where the firewall opens ports of zone `home` (RFC 1918, RFC 3927, RFC 4193)."""

_LOCAL_DOMAINS = ("", ".local", ".lan", ".home", ".home.arpa", ".internal", ".fritz.box", ".localdomain")
"""What home routers put behind a device's name (RFC 6762, RFC 8375)."""


def is_ours(host: str, hostname: str) -> bool:
    """Tell whether a request means this device, by its Host header (RFC 9110 §7.2).

    A page elsewhere can give a name of its own this device's address and so reach it from its reader's browser (DNS
    rebinding). An address cannot be given away like this, nor the device's own name in the home's network.
    """
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() and not host.endswith("]") else host
    try:
        ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return any(name.lower().rstrip(".") == hostname.lower() + domain for domain in _LOCAL_DOMAINS)
    return True


def is_neighbour(client: str) -> bool:
    """Tell whether a client's address is one of the home's own networks, of the same link, or of the device itself.

    The firewall lets nobody else get there; this is for the day on which it does not.
    """
    try:
        address = ipaddress.ip_address(client.partition("%")[0])
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address):
        # A socket for both protocols shows IPv4 so (RFC 4291 §2.5.5.2).
        address = address.ipv4_mapped or address
    return address.is_loopback or (address.version == 6 and address.is_link_local) or is_home(address)


def is_home(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Tell whether an address is one of the home's own networks, or link-local in IPv4."""
    return any(address in network for network in _HOME if network.version == address.version)
