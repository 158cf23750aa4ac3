"""The components as they are shipped, and what makes one wrong."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from stack.component import Component, ComponentError, Protocol, load_components
from stack.stack import Stack
from tests.unit.stack_samples import COMPONENTS, sample_stack

_DYNAMIC = range(900, 1000)
"""systemd-sysusers numbers from 999 downwards, adduser from 100 upwards (Debian Policy §9.2.2)."""

SHIPPED = load_components(COMPONENTS)


def _write(folder: Path, name: str, text: str) -> None:
    (folder / name).mkdir()
    (folder / name / "component.yaml").write_text(f"description: {name}\n{text}\n")


def test_there_is_a_mail_server_a_resolver_and_a_firewall() -> None:
    services = {service.name for service in Stack(SHIPPED).services}
    assert {"postfix", "dovecot", "unbound", "darkpipe-firewall"} <= services


def test_only_mail_is_open_to_the_lan() -> None:
    ports = Stack(SHIPPED).ports
    assert {port.protocol for port in ports} == {Protocol.TCP}
    assert {port.name: port.port for port in ports} == {
        "smtp": 25,
        "submissions": 465,
        "submission": 587,
        "imaps": 993,
        "sieve": 4190,
    }


def test_only_mail_is_open_to_the_relay() -> None:
    ports = Stack(SHIPPED).tunnel_ports
    assert [port.port for port in ports] == [2465, 2500, 2525, 2587, 2993]
    assert all(port.name.startswith("tunnel-") for port in ports)


def test_users_that_may_connect_within_the_device_have_fixed_numbers() -> None:
    stack = Stack(SHIPPED)
    users = {"root", *(user.name for user in stack.users)}
    assert stack.device_ports
    assert {client for port in stack.device_ports for client in port.clients} <= users


@pytest.mark.parametrize("port", ["{name: p, port: 1, zone: device}", "{name: p, port: 1, clients: [postfix]}"])
def test_a_port_has_clients_if_it_is_the_devices_own(tmp_path: Path, port: str) -> None:
    _write(tmp_path, "one", f"ports: [{port}]")
    with pytest.raises(ComponentError, match="port p: `clients` are for zone device, and needed there"):
        load_components(tmp_path)


@pytest.mark.parametrize("component", SHIPPED, ids=lambda component: component.name)
def test_each_service_has_its_unit(component: Component) -> None:
    for service in component.services:
        unit = (component.units / f"{service.name}.service").read_text()
        assert "\nWantedBy=multi-user.target" in unit
        assert "\nConditionPathExists=/data/darkpipe/config/current\n" in unit
        assert re.search(r"^After=.*\bdarkpipe-apply\.service\b", unit, re.MULTILINE)


@pytest.mark.parametrize("component", SHIPPED, ids=lambda component: component.name)
def test_each_service_has_templates_and_a_check(component: Component) -> None:
    for service in component.services:
        if component.name in {"drain", "page", "pairing", "tunnel", "valkey"}:  # nothing of them is rendered
            assert not component.templates.exists()
            continue
        assert service.check
        assert all(any((component.templates / folder).iterdir()) for folder in service.folders)


@pytest.mark.parametrize(
    "unit",
    [unit for unit in sorted(COMPONENTS.glob("*/units/*.service")) if "\nRestart=" in unit.read_text()],
    ids=lambda unit: unit.stem,
)
def test_no_service_is_given_up(unit: Path) -> None:
    """systemd gives up after five deaths in ten seconds (StartLimitBurst= in systemd.unit(5)), and nobody is there."""
    assert "\nStartLimitIntervalSec=0\n" in unit.read_text().partition("[Service]")[0]


def test_a_folder_of_sockets_that_another_service_sees_stays_the_same() -> None:
    """Whoever has bound it would otherwise look into the one of before the restart, which is empty."""
    units = {path.name: path.read_text() for path in COMPONENTS.glob("*/units/*.service")}
    made, kept, seen = set[str](), set[str](), set[str]()
    for text in units.values():
        own = " ".join(re.findall(r"^RuntimeDirectory=(.*)$", text, re.MULTILINE)).split()
        made.update(own)
        if re.search(r"^RuntimeDirectoryPreserve=(yes|restart)$", text, re.MULTILINE):
            kept.update(own)
        bound = " ".join(re.findall(r"^Bind(?:ReadOnly)?Paths=(.*)$", text, re.MULTILINE))
        seen.update(re.findall(r"/run/([a-z-]+)", bound))
    assert {"darkpipe-tunnel", "darkpipe-pair"} <= made & seen
    assert made & seen <= kept


def test_every_daemon_is_asked_whether_it_works() -> None:
    daemons = {path.stem for path in COMPONENTS.glob("*/units/*.service") if "\nRestart=" in path.read_text()}
    assert {"postfix", "rspamd"} < daemons
    # Two run where the device's settings want them; mail does not depend on them. Five are there for the relay: three
    # say by themselves how they are, and the others are themselves the answer to this question. What unlocks
    # is there only while nothing else is; the administrator's and its desk are the status, not a part of it.
    for_relay = {"darkpipe-drain", "darkpipe-pair", "darkpipe-tunnel", "darkpipe-verdict", "darkpipe-ready"}
    others = {
        "ssh",
        "darkpipe-wifi@",
        "darkpipe-page",
        "darkpipe-why-page",
        "darkpipe-relay-unlock",
        "darkpipe-boot-stage",
        "darkpipe-desk",
        "darkpipe-home-page",
        *for_relay,
    }
    assert daemons - others == {service.name for service in Stack(SHIPPED).services if service.health}


def test_only_ssh_the_page_and_its_name_are_open_to_neighbours() -> None:
    ports = [(port.name, port.port, port.protocol) for port in Stack(SHIPPED).home_ports]
    page = [("page-plain", 80, Protocol.TCP), ("page", 443, Protocol.TCP)]
    assert ports == [("ssh", 22, Protocol.TCP), *page, ("mdns", 5353, Protocol.UDP)]


def test_numbers_stay_clear_of_those_that_debian_gives_out() -> None:
    numbers = [user.uid for user in Stack(SHIPPED).users]
    numbers += [group.gid for component in SHIPPED for group in component.groups]
    assert not [number for number in numbers if number < 200 or number in _DYNAMIC]


def test_owners_of_volumes_and_secrets_have_fixed_numbers() -> None:
    stack = Stack(SHIPPED)
    users = {"root", *(user.name for user in stack.users)}
    groups = {*users, *(group.name for component in SHIPPED for group in component.groups)}
    assert {volume.user for volume in stack.volumes} <= users
    assert {volume.group for volume in stack.volumes} | {secret.group for secret in stack.secrets} <= groups


@pytest.mark.parametrize(
    ("first", "second", "claim"),
    [
        ("users: [{name: a, uid: 300}]", "users: [{name: a, uid: 301}]", "user a"),
        ("users: [{name: a, uid: 300}]", "users: [{name: b, uid: 300}]", "id 300"),
        ("users: [{name: a, uid: 300}]", "groups: [{name: a, gid: 301}]", "group a"),
        ("volumes: [{name: v}]", "volumes: [{name: v}]", "volume v"),
        ("ports: [{name: p, port: 25}]", "ports: [{name: q, port: 25}]", "port 25/tcp"),
        ("services: [{name: s}]", "services: [{name: s}]", "service s"),
    ],
)
def test_no_two_components_claim_the_same(tmp_path: Path, first: str, second: str, claim: str) -> None:
    _write(tmp_path, "one", first)
    _write(tmp_path, "two", second)
    with pytest.raises(ComponentError, match=f"two: {claim} is already claimed by one"):
        load_components(tmp_path)


def test_one_port_number_serves_two_protocols(tmp_path: Path) -> None:
    _write(tmp_path, "one", "ports: [{name: p, port: 53}]")
    _write(tmp_path, "two", "ports: [{name: p, port: 53, protocol: udp}]")
    assert len(Stack(load_components(tmp_path)).ports) == 2


@pytest.mark.parametrize(
    "text",
    [
        "colour: blue",
        "users: [{name: Alice, uid: 300}]",
        "users: [{name: a, uid: 1000}]",
        "ports: [{name: p, port: 0}]",
    ],
)
def test_a_wrong_description_names_its_file(tmp_path: Path, text: str) -> None:
    _write(tmp_path, "one", text)
    with pytest.raises(ComponentError, match=r"one/component\.yaml"):
        load_components(tmp_path)


def test_a_description_that_is_no_mapping(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "one/component.yaml").write_text("- a\n")
    with pytest.raises(ComponentError, match="expected a mapping, found list"):
        load_components(tmp_path)


def test_checks_get_the_path_of_the_tree(tmp_path: Path) -> None:
    stack = sample_stack(tmp_path, one=[["check", "-c", "{config}/one"]])
    assert stack.checks(Path("/x")) == [("check", "-c", "/x/one")]
