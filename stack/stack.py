"""The Stack: everything that runs at home, as one value; images, containers and the firewall are views of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from stack.component import Component, Port, Secret, Service, SystemUser, Volume, Zone, load_components

COMPONENTS = Path("/usr/share/darkpipe/components")
"""Where the components' descriptions and templates lie on the device."""

DATA = PurePosixPath("/data")
"""Where the volumes lie on the device."""

TUNNEL_INTERFACES = "relay*"
"""Names of the network interfaces that lead to a relay, as nft(8) matches them."""


@dataclass(frozen=True)
class Stack:
    """The components of one home, and what they need together."""

    components: tuple[Component, ...]

    @classmethod
    def load(cls, folder: Path = COMPONENTS) -> Stack:
        """Read the components below a folder.

        Raises:
            ComponentError: one is wrong, or two of them contradict each other.
        """
        return cls(load_components(folder))

    @property
    def services(self) -> tuple[Service, ...]:
        """Every systemd service."""
        return tuple(service for component in self.components for service in component.services)

    @property
    def users(self) -> tuple[SystemUser, ...]:
        """Every system user."""
        return tuple(user for component in self.components for user in component.users)

    @property
    def volumes(self) -> tuple[Volume, ...]:
        """Every persistent folder."""
        return tuple(volume for component in self.components for volume in component.volumes)

    @property
    def ports(self) -> tuple[Port, ...]:
        """Every port that the LAN may reach, in ascending order."""
        return self._ports(Zone.LAN)

    @property
    def home_ports(self) -> tuple[Port, ...]:
        """Every port that only neighbours in the home's own networks may reach, in ascending order."""
        return self._ports(Zone.HOME)

    @property
    def tunnel_ports(self) -> tuple[Port, ...]:
        """Every port that the relay may reach, in ascending order."""
        return self._ports(Zone.TUNNEL)

    @property
    def device_ports(self) -> tuple[Port, ...]:
        """Every port by which services of the device reach each other, in ascending order."""
        return self._ports(Zone.DEVICE)

    @property
    def secrets(self) -> tuple[Secret, ...]:
        """Every rendered file that is not for everybody's eyes."""
        return tuple(secret for component in self.components for secret in component.secrets)

    def services_to_restart(self, paths: Iterable[PurePosixPath]) -> tuple[Service, ...]:
        """Find the services that see a change of some files of the rendered tree only after a restart.

        Args:
            paths: relative to the tree.
        """
        changed = tuple(paths)
        return tuple(service for service in self.services if any(map(service.concerns, changed)))

    def checks(self, tree: Path) -> Sequence[tuple[str, ...]]:
        """List the commands by which the daemons judge a rendered tree."""
        return [
            tuple(word.replace("{config}", str(tree)) for word in command)
            for service in self.services
            for command in service.check
        ]

    def session_ends(self, address: str) -> Sequence[tuple[str, ...]]:
        """List the commands that end all sessions of a user."""
        commands = (service.end_sessions for service in self.services if service.end_sessions)
        return [tuple(word.replace("{address}", address) for word in command) for command in commands]

    def _ports(self, zone: Zone) -> tuple[Port, ...]:
        ports = (port for component in self.components for port in component.ports if port.zone is zone)
        return tuple(sorted(ports, key=lambda port: (port.port, port.protocol)))
