"""What a provider hands to cloud-init: its NoCloud data source's files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Interface:
    """One network interface, as the provider has set it up.

    Args:
        addresses: with prefix lengths.
        gateways: where its default routes go, one for each family.
    """

    name: str
    addresses: Sequence[str]
    gateways: Sequence[str] = ()


@dataclass(frozen=True)
class Seed:
    """The provider's data for one machine.

    Args:
        user_data: the customer's.
        instance: the machine's identity: what is done once per instance is done again when it changes.
        interfaces: None leaves it to cloud-init, which then tries DHCP on the first one.
    """

    user_data: str
    instance: str = "vps-1"
    interfaces: Sequence[Interface] | None = None

    def files(self) -> dict[str, str]:
        """Give the files by their names (NoCloud, "Source files"); JSON is YAML as well."""
        files = {
            "user-data": self.user_data,
            "meta-data": json.dumps({"instance-id": self.instance, "local-hostname": "vps"}) + "\n",
        }
        if self.interfaces is not None:
            files["network-config"] = json.dumps(_network(self.interfaces)) + "\n"
        return files


def _network(interfaces: Sequence[Interface]) -> dict[str, object]:
    """Networking config version 2, the format of netplan."""
    ethernets = {
        interface.name: {
            "addresses": list(interface.addresses),
            "accept-ra": False,
            "routes": [
                {"to": "::/0" if ":" in gateway else "0.0.0.0/0", "via": gateway} for gateway in interface.gateways
            ],
        }
        for interface in interfaces
    }
    return {"version": 2, "ethernets": ethernets}
