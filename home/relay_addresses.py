"""Where in the Internet the relay is, from all that the device knows of it."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

from pydantic import ValidationError

from home.dns_records import RelayAddresses
from home.spf import Look
from home.store import StoreError
from home.tunnel_state import Tunnel
from model.mtls import read_home_end

Address = IPv4Address | IPv6Address


def relay_name(path: Path) -> str | None:
    """Read what home calls its relay, a name or an address, from its end of the tunnel; None without a relay.

    Raises:
        StoreError: the file is damaged.
        OSError: it cannot be read.
    """
    try:
        return read_home_end(path.read_bytes()).relay
    except FileNotFoundError:
        return None
    except ValidationError as error:
        found = "; ".join(one["msg"] for one in error.errors(include_url=False))
        raise StoreError(f"{path} is damaged: {found}") from None


def addresses(given: Iterable[Address], relay: str | None, tunnel: Tunnel | None, look: Look) -> RelayAddresses:
    """Find the relay's addresses.

    What somebody says counts, and nothing else then. Otherwise the address that the tunnel leads to is certain; only
    for a family that it says nothing of, DNS is asked for the relay's name.

    Args:
        relay: its name or address.
        look: asks DNS for the records of a name and type.
    """
    known = set(given)
    if known:
        return _sorted(known, proven=True)
    named = _parsed(relay)
    known |= {address for address in (named, endpoint(tunnel)) if address}
    proven = bool(known)
    if relay and named is None:
        for version, kind in ((4, "A"), (6, "AAAA")):
            if not any(address.version == version for address in known):
                known |= {address for value in look(relay, kind).values if (address := _parsed(value))}
    return _sorted(known, proven=proven)


def endpoint(tunnel: Tunnel | None) -> Address | None:
    """Give the address that the tunnel leads to: `192.0.2.1:51820` or `[2001:db8::1]:51820`; None while it is down."""
    if tunnel is None or tunnel.endpoint is None or not tunnel.up:
        return None
    return _parsed(tunnel.endpoint.rpartition(":")[0].strip("[]"))


def _sorted(known: set[Address], *, proven: bool) -> RelayAddresses:
    return RelayAddresses(
        tuple(sorted(address for address in known if isinstance(address, IPv4Address))),
        tuple(sorted(address for address in known if isinstance(address, IPv6Address))),
        proven,
    )


def _parsed(text: str | None) -> Address | None:
    try:
        return ip_address(text or "")
    except ValueError:
        return None
