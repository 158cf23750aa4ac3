"""Where the device is in the home's network."""

from __future__ import annotations

import ipaddress
import json
import subprocess
from collections.abc import Sequence

from firstboot.partitions import run
from web.lan import is_home


def home_addresses() -> tuple[str, ...]:
    """Give the device's addresses at which neighbours reach its page, as they stand in a URL."""
    try:
        listed = json.loads(run("ip", "-json", "address", "show", "up", "scope", "global"))
    except (OSError, subprocess.CalledProcessError, ValueError):
        return ()
    # Where a filter leaves nothing of an address, ip(8) prints an empty object.
    places = [one for link in listed for one in link.get("addr_info", ()) if "local" in one]
    found = [ipaddress.ip_address(one["local"]) for one in places]
    return tuple(f"[{one}]" if one.version == 6 else str(one) for one in found if is_home(one))


def page_places(hostname: str, addresses: Sequence[str]) -> tuple[str, ...]:
    """Give the URLs of the device's page, the one that every browser at home can open first.

    Args:
        addresses: as `home_addresses` gives them.
    """
    # Not every phone asks by multicast DNS, and nobody types an address of IPv6 who need not.
    short = [one for one in addresses if not one.startswith("[")] or addresses
    return tuple(f"https://{place}" for place in (*short, f"{hostname}.local"))
