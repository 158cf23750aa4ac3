"""A provider of emulated cloud machines, which rents one at a time, always at the same address."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from builder.archive import Archive
from builder.build import open_workshop
from builder.cache import Cache
from builder.progress import Stages
from builder.sandbox import remove_tree
from builder.workshop import Workshop
from tests.cloud.qemu import Cable, EmulatedVps, emulated_vps
from tests.cloud.root import RELAY_PACKAGES, Architecture, CloudRoot, CloudSystem, Suite, cloud_root
from tests.cloud.seed import Seed
from tests.network.internet import Internet, Site

_PATIENCE = 1200.0
"""Seconds for cloud-init, on an emulated processor."""


@dataclass
class Provider:
    """Rents machines.

    Args:
        site: where they are plugged in.
        log: takes what their consoles show.
    """

    shop: Workshop
    root: CloudRoot
    site: Site
    cable: Cable
    log: Path
    _machine: ExitStack = field(default_factory=ExitStack)
    _vps: EmulatedVps | None = None
    _rented: int = 0

    @property
    def vps(self) -> EmulatedVps:
        """The machine that is rented now."""
        assert self._vps, "none is rented"
        return self._vps

    def rent(self, user_data: str) -> EmulatedVps:
        """Make a machine of user-data, and wait until cloud-init is done: it writes to the console until then."""
        self._rented += 1
        seed = Seed(user_data, f"vps-{self._rented}", [self.site.interface("eth0")])
        made = emulated_vps(self.shop, self.root, seed, self.log, cable=self.cable)
        self._vps = self._machine.enter_context(made)
        self._vps.console.run("cloud-init status --wait", _PATIENCE)
        return self._vps

    def destroy(self) -> None:
        """End the machine for good, as a provider does: nothing of its disk is left."""
        self.vps.console.close()
        self._machine.close()
        self._vps = None

    def close(self) -> None:
        """End the machine in order."""
        self._machine.close()


@contextmanager
def open_provider(request: pytest.FixtureRequest, internet: Internet, site: Site, log: Path) -> Iterator[Provider]:
    """Open a provider of the Debian and the processor that pytest's options name."""
    shop = open_workshop(Cache(Cache.default().root, remove_tree), Archive.from_environment(), Stages())
    suite = Suite(request.config.getoption("--relay-suite"))
    architecture = Architecture(request.config.getoption("--relay-architecture"))
    root = cloud_root(shop, CloudSystem(suite, bootable=True, installed=RELAY_PACKAGES, architecture=architecture))
    internet.offer_tap(site)
    provider = Provider(shop, root, site, Cable(internet.router, internet.cable(site)), log)
    try:
        yield provider
    finally:
        provider.close()
