"""The Stack as a Compose project: every service a container of the same image, as tightly closed as its unit.

A second backend beside systemd, made from the same description.
"""

from __future__ import annotations

from collections.abc import Iterable

from stack.component import Health, Port, Service
from stack.stack import DATA, Stack

_INTERVAL = "60s"
"""Between two probes: often enough to notice within a minute, seldom enough to keep a small device idle."""


def compose(stack: Stack, image: str) -> dict[str, object]:
    """Give the Stack as a mapping that is a compose.yaml (Compose Specification).

    Args:
        image: reference of the image with the root file system, for all services.
    """
    services = [service for service in stack.services if service.command]
    return {
        "name": "darkpipe",
        "services": {service.name: _container(service, stack, image) for service in services},
        "volumes": {name: {} for name in sorted({volume for service in services for volume in _volumes(service)})},
    }


def _container(service: Service, stack: Stack, image: str) -> dict[str, object]:
    container: dict[str, object] = {
        "image": image,
        "command": list(service.command),
        "user": service.user,
        "read_only": True,
        "cap_drop": ["ALL"],
        "cap_add": list(service.capabilities),
        "security_opt": ["no-new-privileges:true"],
        "tmpfs": ["/run", "/tmp", "/var/lib"],  # noqa: S108  # paths of a container
        "volumes": _mounts(service),
        "restart": "unless-stopped",
        "depends_on": {name: {"condition": _condition(name, stack)} for name in service.needs},
        "ports": [_port(port) for port in stack.ports if port.name in service.listens],
    }
    if service.health:
        container["healthcheck"] = {"test": ["CMD-SHELL", _test(service.health)], "interval": _INTERVAL}
    return container


def _mounts(service: Service) -> list[dict[str, object]]:
    volumes = [(name, str(DATA / name), name in service.sees) for name in (*service.writes, *service.sees)]
    folders = [(f"run-{name}", f"/run/{name}", name in service.connects) for name in _folders(service)]
    return [
        {"type": "volume", "source": source, "target": target, "read_only": read_only}
        for source, target, read_only in (*volumes, *folders)
    ]


def _volumes(service: Service) -> list[str]:
    return [*service.writes, *service.sees, *(f"run-{name}" for name in _folders(service))]


def _folders(service: Service) -> tuple[str, ...]:
    return (*service.sockets, *service.connects)


def _condition(name: str, stack: Stack) -> str:
    needed = next(service for service in stack.services if service.name == name)
    return "service_healthy" if needed.health else "service_started"


def _port(port: Port) -> dict[str, object]:
    return {"target": port.port, "published": str(port.port), "protocol": str(port.protocol)}


def _test(health: Iterable[Health]) -> str:
    return " && ".join(f"darkpipe probe {entry.probe} {entry.target}" for entry in health)
