"""A component: one part of the home stack as data, read from `components/<name>/component.yaml`.

The same description feeds the builder (packages, users, files), the device (templates, checks, volumes) and the
firewall (ports), so that none of them can disagree.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import Annotated, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from stack.probes import ProbeKind

Name = Annotated[str, Field(pattern=r"^[a-z_][a-z0-9_-]*$", max_length=31)]
"""A Unix user, group, volume or unit name (useradd(8): at most 32 characters with the terminating NUL)."""

SystemId = Annotated[int, Field(ge=100, le=999)]
"""A uid or gid of the system range of Debian Policy §9.2.2."""


Capability = Annotated[str, Field(pattern=r"^[A-Z][A-Z_]*$")]
"""A name of capabilities(7) without `CAP_`, as containers want it."""


class Protocol(StrEnum):
    """Transport protocol of a listening port."""

    TCP = "tcp"
    UDP = "udp"


class Zone(StrEnum):
    """From where a port may be reached."""

    LAN = "lan"
    """Any network but the tunnel's."""
    HOME = "home"
    """The same, but only addresses that no network outside of a home or an office has."""
    TUNNEL = "tunnel"
    """The tunnel to the relay, which names the true client in a PROXY header."""
    DEVICE = "device"
    """The device itself, and there only some users."""


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SystemUser(_Strict):
    """A system user with a group of the same name and number; the number is fixed because `data` outlives images."""

    name: Name
    uid: SystemId
    home: str = "/nonexistent"
    groups: tuple[Name, ...] = ()


class SystemGroup(_Strict):
    """A group that belongs to no user of the same name, for instance Postfix's `postdrop`."""

    name: Name
    gid: SystemId


class Volume(_Strict):
    """A persistent folder, `/data/<name>` on the device."""

    name: Name
    user: Name = "root"
    group: Name = "root"
    mode: Annotated[str, Field(pattern=r"^[0-7]{4}$")] = "0700"


class Port(_Strict):
    """A port that a service listens on; the firewall opens it towards its zone and no other."""

    name: Name
    port: Annotated[int, Field(ge=1, le=65535)]
    protocol: Protocol = Protocol.TCP
    zone: Zone = Zone.LAN
    clients: tuple[Name, ...] = ()
    """The users that may connect to a port of the device itself."""

    @model_validator(mode="after")
    def _has_clients_in_the_device_only(self) -> Self:
        if bool(self.clients) != (self.zone is Zone.DEVICE):
            raise ValueError(f"port {self.name}: `clients` are for zone {Zone.DEVICE}, and needed there")
        return self


class Health(_Strict):
    """What a service is asked for when somebody wants to know whether it works."""

    probe: ProbeKind
    target: str
    """`host:port`, or the path of a Unix socket."""
    to_receive: bool = False
    """Whether no mail can be received while this fails."""


class Service(_Strict):
    """A service of the component: on the device the systemd unit `units/<name>.service`, elsewhere a container.

    What both need is said here once; a test holds the units to it.
    """

    name: Name
    command: tuple[str, ...] = ()
    """What runs, in the foreground, in a container; none when the service makes sense on the device only."""
    user: Name = "root"
    capabilities: tuple[Capability, ...] = ()
    needs: tuple[Name, ...] = ()
    """Services that start before this one."""
    writes: tuple[Name, ...] = ()
    """Volumes that it changes."""
    sees: tuple[Name, ...] = ()
    """Volumes of which it reads something."""
    listens: tuple[Name, ...] = ()
    """Ports of the component, by name, on which it listens."""
    sockets: tuple[Name, ...] = ()
    """Folders in /run that it makes."""
    connects: tuple[Name, ...] = ()
    """Folders in /run, made by other services, whose sockets it uses."""
    health: tuple[Health, ...] = ()
    check: tuple[tuple[str, ...], ...] = ()
    """Commands that let the daemon judge a rendered tree; `{config}` stands for the tree's path."""
    reads: tuple[str, ...] = ()
    """Folders of the tree that the service reads, when they are not named like the service."""
    rereads: tuple[PurePosixPath, ...] = ()
    """Files of the tree that the daemon reads again by itself once they have changed: no reason to restart it."""
    end_sessions: tuple[str, ...] = ()
    """Command that ends the sessions of a user; `{address}` stands for the address."""

    @property
    def folders(self) -> tuple[str, ...]:
        """Top folders of the rendered tree; a change in one of them concerns the service."""
        return self.reads or (self.name,)

    def concerns(self, path: PurePosixPath) -> bool:
        """Tell whether the service must be restarted when a file of the rendered tree has changed."""
        return path.parts[0] in self.folders and path not in self.rereads


class Secret(_Strict):
    """A rendered file that only root and one group may read; all others are readable for everybody."""

    path: PurePosixPath
    group: Name


class Component(_Strict):
    """One folder of `components/`."""

    name: Name
    folder: Path
    description: str
    packages: tuple[str, ...] = ()
    users: tuple[SystemUser, ...] = ()
    groups: tuple[SystemGroup, ...] = ()
    volumes: tuple[Volume, ...] = ()
    ports: tuple[Port, ...] = ()
    services: tuple[Service, ...] = ()
    secrets: tuple[Secret, ...] = ()

    @property
    def templates(self) -> Path:
        """Folder of Jinja2 templates; each is rendered to the same path without `.j2`. It may be absent."""
        return self.folder / "templates"

    @property
    def units(self) -> Path:
        """Folder of systemd units that go into the image. It may be absent."""
        return self.folder / "units"

    @property
    def files(self) -> Path:
        """Folder laid over `/` of the image. It may be absent."""
        return self.folder / "files"

    @property
    def package_hook(self) -> Path:
        """Script run in the package layer's root after installation. It may be absent."""
        return self.folder / "package-hook.sh"


class ComponentError(Exception):
    """A component's description is wrong; the text names the file."""


def load_component(folder: Path) -> Component:
    """Read one component.

    Args:
        folder: a folder that holds `component.yaml`.

    Raises:
        ComponentError: the file is missing, is no YAML mapping, or breaks the model.
    """
    path = folder / "component.yaml"
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
        if not isinstance(data, dict):
            raise ComponentError(f"{path}: expected a mapping, found {type(data).__name__}")
        return Component(name=folder.name, folder=folder, **data)
    except (OSError, yaml.YAMLError, ValidationError) as error:
        raise ComponentError(f"{path}: {error}") from error


def load_components(root: Path) -> tuple[Component, ...]:
    """Read every component below `root`, in the order of their names.

    Raises:
        ComponentError: one of them is wrong, or two claim the same user, group, number, volume or port.
    """
    components = tuple(load_component(path.parent) for path in sorted(root.glob("*/component.yaml")))
    claims: dict[str, str] = {}
    for component in components:
        for claim in _claims(component):
            if claim in claims:
                raise ComponentError(f"{component.folder}: {claim} is already claimed by {claims[claim]}")
            claims[claim] = component.name
    return components


def _claims(component: Component) -> list[str]:
    users = [
        claim for user in component.users for claim in (f"user {user.name}", f"group {user.name}", f"id {user.uid}")
    ]
    groups = [claim for group in component.groups for claim in (f"group {group.name}", f"id {group.gid}")]
    volumes = [f"volume {volume.name}" for volume in component.volumes]
    ports = [f"port {port.port}/{port.protocol}" for port in component.ports]
    services = [f"service {service.name}" for service in component.services]
    return users + groups + volumes + ports + services
