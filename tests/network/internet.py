"""The Internet as tests know it: one router, a cable to each machine, and any number of strangers behind it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tests.cloud.seed import Interface
from tests.network.net import Namespace, join, namespace


@dataclass(frozen=True)
class Site:
    """A place at the end of a cable, by its number.

    Its addresses are from RFC 2544 (which no firewall takes for private ones) and RFC 3849.
    """

    number: int

    @property
    def address(self) -> str:
        """Its IPv4 address."""
        return f"198.18.{self.number}.2"

    @property
    def address6(self) -> str:
        """Its IPv6 address."""
        return f"2001:db8:{self.number}::2"

    @property
    def networks(self) -> tuple[tuple[str, str], tuple[str, str]]:
        """Its addresses and the router's, with prefix lengths."""
        gateway, gateway6 = self.gateways
        return (f"{self.address}/24", f"{gateway}/24"), (f"{self.address6}/64", f"{gateway6}/64")

    @property
    def gateways(self) -> tuple[str, str]:
        """The router's addresses on this cable."""
        return f"198.18.{self.number}.1", f"2001:db8:{self.number}::1"

    def interface(self, name: str) -> Interface:
        """Give the cable's end as a provider tells cloud-init about it."""
        return Interface(name, [own for own, _ in self.networks], self.gateways)


class Internet:
    """The router.

    Args:
        router: its network; what is captured or dropped in it is captured or dropped on the way. Addresses added
            to it (`Client.add_address`) are strangers that every machine reaches.
    """

    def __init__(self, router: Namespace) -> None:
        self.router = router

    def plug(self, place: Namespace, number: int, name: str = "eth0") -> Site:
        """Put a cable to a machine that sets up its own end, as a cloud machine does."""
        site = Site(number)
        join(place, self.router, (name, self.cable(site)))
        self._take_up(site)
        return site

    def offer_tap(self, site: Site) -> None:
        """Put a cable to an emulated machine, whose end is a tap(4) interface of the router's; it sets up its own."""
        self.router.run("ip", "tuntap", "add", "dev", self.cable(site), "mode", "tap")
        self.router.run("ip", "link", "set", self.cable(site), "up")
        self._take_up(site)

    def _take_up(self, site: Site) -> None:
        for _, network in site.networks:
            nodad = ["nodad"] if ":" in network else []
            self.router.run("ip", "address", "add", network, "dev", self.cable(site), *nodad)

    def connect(self, place: Namespace, number: int, name: str = "eth0") -> Site:
        """Put a cable to a network that does nothing by itself, and set it up: addresses and default routes."""
        site = self.plug(place, number, name)
        for (own, _), gateway in zip(site.networks, site.gateways, strict=True):
            nodad = ["nodad"] if ":" in own else []
            place.run("ip", "address", "add", own, "dev", name, *nodad)
            place.run("ip", "route", "add", "default", "via", gateway)
        return site

    def cable(self, site: Site) -> str:
        """Name the router's end of a cable."""
        return f"site{site.number}"


@contextmanager
def make_internet() -> Iterator[Internet]:
    """Make a router that forwards between its cables."""
    with namespace() as router:
        router.run("sysctl", "--quiet", "--write", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
        yield Internet(router)
