"""Where the device is in the home's network, from what ip(8) prints."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest

from firstboot import lan


def _link(name: str, *addresses: str) -> dict[str, object]:
    return {"ifname": name, "addr_info": [{"local": address} if address else {} for address in addresses]}


def test_neighbours_reach_the_page_at_the_homes_addresses_and_not_at_the_tunnels(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The console showed the tunnel's address as one to open in a browser."""
    links = [
        _link("eth0", "192.168.1.7", "203.0.113.9", "fd00:1::7", ""),
        _link("relay0", "10.130.4.41", "fd00:2::1"),
    ]

    def run(*argv: str) -> str:
        assert argv[0] == "ip"
        return json.dumps(links)

    monkeypatch.setattr(lan, "run", run)
    found: Sequence[str] = lan.home_addresses()
    assert found == ("192.168.1.7", "[fd00:1::7]")
    links[0] = _link("eth0")
    assert lan.home_addresses() == ()
