"""The Stack as data: the systemd units agree with it, and so does the Compose project that is made from it."""

from __future__ import annotations

import re
from typing import Any

import pytest

from stack.component import Component, Service
from stack.compose import compose
from stack.stack import Stack
from tests.unit.stack_samples import COMPONENTS

STACK = Stack.load(COMPONENTS)
SERVICES = [(component, service) for component in STACK.components for service in component.services]
PAIRS = pytest.mark.parametrize(("component", "service"), SERVICES, ids=[service.name for _, service in SERVICES])


class _Unit:
    """The settings of a unit, of which one may stand there several times (systemd.syntax(7))."""

    def __init__(self, component: Component, service: Service) -> None:
        self._text = (component.units / f"{service.name}.service").read_text()

    def lines(self, name: str) -> list[str]:
        return re.findall(rf"^{name}=(.*)$", self._text, re.MULTILINE)

    def words(self, name: str) -> list[str]:
        return " ".join(self.lines(name)).split()

    def volumes(self, name: str) -> set[str]:
        return {match[1] for path in self.words(name) if (match := re.match(r"/data/([^/]+)", path))}


@PAIRS
def test_unit_has_the_rights_of_the_service(component: Component, service: Service) -> None:
    unit = _Unit(component, service)
    assert set(unit.words("CapabilityBoundingSet")) == {f"CAP_{name}" for name in service.capabilities}
    if not unit.words("DynamicUser"):
        assert (unit.words("User") or ["root"]) == [service.user]


@PAIRS
def test_unit_sees_the_volumes_of_the_service(component: Component, service: Service) -> None:
    unit = _Unit(component, service)
    assert "/data:ro" in unit.words("TemporaryFileSystem")
    assert unit.volumes("BindPaths") == set(service.writes)
    assert unit.volumes("BindReadOnlyPaths") == set(service.sees)


@PAIRS
def test_unit_makes_and_sees_the_folders_with_sockets(component: Component, service: Service) -> None:
    unit = _Unit(component, service)
    settings = "".join(path.read_text() for path in component.files.glob("etc/tmpfiles.d/*.conf"))
    made = set(re.findall(r"^d /run/(\S+)", settings, re.MULTILINE))
    assert set(unit.words("RuntimeDirectory")) | made == set(service.sockets)
    hidden = "/run:ro" in unit.words("TemporaryFileSystem")
    bound = {path.removeprefix("/run/") for path in unit.words("BindReadOnlyPaths") if path.startswith("/run/")}
    assert set(service.connects) <= (bound if hidden else set(service.connects))
    assert {path for path in bound if not path.startswith("systemd/")} == set(service.connects)


@PAIRS
def test_unit_runs_the_program_of_the_service_after_what_it_needs(component: Component, service: Service) -> None:
    unit = _Unit(component, service)
    if service.command:
        assert unit.words("ExecStart")[0] == service.command[0]
    assert {f"{name}.service" for name in service.needs} <= set(unit.words("After"))


def test_every_port_has_a_service_that_listens() -> None:
    for component in STACK.components:
        listened = sorted(name for service in component.services for name in service.listens)
        # SSH and multicast DNS are no services of the Stack: they have nothing to do with mail, and run without a Site.
        assert listened == sorted(port.name for port in component.ports if port.name not in {"mdns", "ssh"})


def test_containers_are_as_closed_as_the_units() -> None:
    project: Any = compose(STACK, "darkpipe:test")
    assert set(project["services"]) == {service.name for service in STACK.services if service.command}
    for name, container in project["services"].items():
        assert container["read_only"], name
        assert container["cap_drop"] == ["ALL"]
        assert container["security_opt"] == ["no-new-privileges:true"]
        assert "privileged" not in container
    postfix = project["services"]["postfix"]
    mounts = {mount["target"]: mount["read_only"] for mount in postfix["volumes"]}
    assert mounts["/data/queue"] is False
    assert mounts["/data/tls"] is True
    assert mounts["/run/dovecot-postfix"] is True
    assert "/data/mail" not in mounts
    assert postfix["depends_on"]["dovecot"] == {"condition": "service_healthy"}
    assert {"target": 25, "published": "25", "protocol": "tcp"} in postfix["ports"]
    assert "darkpipe probe smtp 127.0.0.1:25" in postfix["healthcheck"]["test"][1]


def test_every_mounted_volume_is_declared() -> None:
    project: Any = compose(STACK, "darkpipe:test")
    mounted = {mount["source"] for container in project["services"].values() for mount in container["volumes"]}
    assert mounted == set(project["volumes"])
