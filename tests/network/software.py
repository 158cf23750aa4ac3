"""A server that cloud-init has made, and a home that brings it its software through a real tunnel."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bootstrap.ends import Bootstrap
from builder.build import SOURCE
from home.bundle import Carried, bring, bring_first, has_none
from home.control_client import ControlClient, Home
from model.bundle import BundleState
from model.control import QueueSettings
from model.tunnel import HOME_INTERFACE, HomeEnd
from tests.bundles import AGENT, other_bundle
from tests.cloud.vps import Vps
from tests.machine.machine import wait_for
from tests.network.conftest import scratch_folder
from tests.network.internet import Internet
from tests.network.net import Namespace, namespace, wireguard

AGENT_FILE = "relay/agent.py"
_PATIENT = "SECONDS = 60.0"
_IMPATIENT = {"relay/health.py": (SOURCE / "relay/health.py").read_text().replace(_PATIENT, "SECONDS = 20.0")}
"""What is broken on purpose need not be waited for."""


@dataclass(frozen=True)
class Ends:
    """Both ends.

    Args:
        home: the network of home's end of the tunnel.
        relay: the server's address in the tunnel.
        folder: for bundles.
    """

    vps: Vps
    home: Namespace
    relay: str
    folder: Path

    def bundle(self, name: str, agent: str = AGENT, version: str = "", **changes: str) -> Carried:
        """Make a bundle whose agent knows home by the tunnel.

        Args:
            changes: further files written anew; `__` in their names is a slash.
        """
        folder = self.folder / name
        folder.mkdir()
        files = {path.replace("__", "/"): text for path, text in changes.items()}
        return other_bundle(folder, {AGENT_FILE: agent, **_IMPATIENT, **files}, version)

    def has_none(self) -> bool:
        """Tell whether the server waits for its first software."""
        return self.home.call(has_none, self.relay)

    def bring_first(self, bundle: Carried) -> None:
        """Bring the first software."""
        self.home.call(bring_first, self.relay, bundle)

    def bring(self, bundle: Carried, *, downgrade: bool = False) -> BundleState:
        """Bring other software, and give what comes of it."""

        def act() -> BundleState:
            with self._client() as client:
                return bring(client, bundle, downgrade=downgrade).state

        return self.home.call(act)

    def send(self, bundle: Carried) -> None:
        """Bring other software, and do not wait for what comes of it."""

        def act() -> None:
            with self._client() as client, bundle.path.open("rb") as file:
                client.request("PUT", f"/bundle?id={bundle.id}", file)

        self.home.call(act)

    def push(self, settings: QueueSettings) -> None:
        """Push home's settings."""

        def act() -> None:
            with self._client() as client:
                client.send("PUT", "/settings", settings)

        self.home.call(act)

    def _client(self) -> ControlClient:
        return ControlClient((self.relay, 2601), Home("", 0), None)

    def current(self) -> str:
        """Give the id of the bundle in force."""
        return self.vps.run("readlink", "/opt/darkpipe/current").strip()


@contextmanager
def both_ends(vps: Vps, address: str, bootstrap: Bootstrap, internet: Internet, number: int) -> Iterator[Ends]:
    """Join a server that runs with a home.

    Args:
        address: the server's.
        number: of home's cable to the Internet.
    """
    addresses = bootstrap.home.addresses
    with namespace() as home, scratch_folder() as folder:
        internet.connect(home, number)
        own = [f"{addresses.home4}/32", f"{addresses.home6}/128"]
        allowed = f"{addresses.relay4}/32,{addresses.relay6}/128"
        assert isinstance(bootstrap.home, HomeEnd)
        peer = [bootstrap.home.relay_key, "allowed-ips", allowed, "endpoint", f"{address}:51820"]
        with wireguard(home, HOME_INTERFACE, own, bootstrap.home.private_key, peer):
            home.run("ip", "route", "add", str(addresses.relay6), "dev", HOME_INTERFACE)
            yield Ends(vps, home, str(addresses.relay6), folder)


def make_relay(
    vps: Vps, address: str, bootstrap: Bootstrap, internet: Internet, settings: QueueSettings, number: int = 50
) -> None:
    """Let a home bring software and settings to a server, and never call again."""
    with both_ends(vps, address, bootstrap, internet, number) as ends:
        wait_for(ends.has_none, "the receiver")
        ends.bring_first(other_bundle(ends.folder, {AGENT_FILE: AGENT}))
        ends.push(settings)
