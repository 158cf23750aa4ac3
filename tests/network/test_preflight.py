"""`darkpipe preflight` on a device with a real relay: what it calls, and by which way."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from home.block_lists import BLOCK_LISTS
from home.preflight import Step
from home.preflight_job import Preflight
from home.seen import PREFLIGHT
from tests.machine.machine import Machine
from tests.network.conftest import RELAY_ADDRESS, SENDER_ADDRESS, know
from tests.network.greeter import greeter
from tests.network.net import Namespace

_KNOWN = (
    'local-data: "friend.example. MX 10 mx.friend.example."',
    'local-data: "gmail.com. MX 10 mx.friend.example."',
    f'local-data: "mx.friend.example. A {SENDER_ADDRESS}"',
    *(f'local-data: "2.0.0.127.{each.zone}. A 127.0.0.2"' for each in BLOCK_LISTS),
    f'local-data: "1.113.0.203.{BLOCK_LISTS[0].zone}. A 127.0.0.4"',
)


@pytest.fixture
def friend(world: Namespace) -> Iterator[list[str]]:
    with greeter(world, SENDER_ADDRESS) as told:
        yield told


def _preflight(home: Machine) -> dict[str, dict[str, Any]]:
    # It ends with 1: the world of the tests has no name servers that could be asked for A and PTR.
    told = home.run("sh", "-c", "darkpipe preflight --target friend.example --json || [ $? = 1 ]")
    steps: dict[str, dict[str, Any]] = {}
    for step in json.loads(told)["steps"]:
        steps.setdefault(step["step"], step)
    return steps


def _may_call(home: Machine, address: str) -> bool:
    tried = home.run(
        "sh", "-c", f"python3 -c 'import socket; socket.create_connection((\"{address}\", 25), 5)' 2>&1 || :"
    )
    return "Error" not in tried


def test_mail_can_come_in_and_go_out(home: Machine, friend: list[str]) -> None:
    know(home, 'local-zone: "." static', *_KNOWN)
    assert not _may_call(home, RELAY_ADDRESS)
    steps = _preflight(home)
    assert steps["port-25-out"]["outcome"] == "good", steps
    # Root would go by home's own line, where the firewall stands: the relay's address is what the world sees.
    assert steps["sender-address"]["text"] == f"it is the relay's: {RELAY_ADDRESS}"
    assert steps["port-25-in"]["outcome"] == "good", steps
    assert steps["tls"]["outcome"] == steps["name"]["outcome"] == "good", steps
    assert steps["block-list"]["outcome"] == "wrong"
    assert friend == ["ehlo mx.example.com"]
    # What was opened is the relay alone.
    assert not _may_call(home, SENDER_ADDRESS)


def test_the_pages_preflight_sees_the_same_from_its_cage(home: Machine, friend: list[str]) -> None:
    know(home, 'local-zone: "." static', *_KNOWN)
    home.run("systemctl", "start", "darkpipe-preflight.service")
    state = Preflight.model_validate_json((home.data / PREFLIGHT).read_bytes())
    assert (state.error, state.passed) == ("", False)
    outcomes = {step.step: step for step in reversed(state.steps)}
    assert outcomes[Step.PORT_25_OUT].outcome == "good", state
    assert outcomes[Step.SENDER_ADDRESS].text == f"it is the relay's: {RELAY_ADDRESS}"
    assert outcomes[Step.PORT_25_IN].outcome == outcomes[Step.TLS].outcome == outcomes[Step.NAME].outcome == "good", (
        state
    )
    assert outcomes[Step.BLOCK_LIST].outcome == "wrong"
    assert friend == ["ehlo mx.example.com"]


def test_a_relay_whose_way_out_is_blocked_is_found(home: Machine, world: Namespace) -> None:
    know(home, 'local-zone: "." static', *_KNOWN)
    steps = _preflight(home)  # nobody listens: the friend is not there
    assert steps["port-25-out"]["outcome"] == "wrong"
    assert steps["port-25-in"]["outcome"] == "good"
    assert world.can_connect(25, RELAY_ADDRESS)


def test_the_device_shows_its_records(home: Machine) -> None:
    told = json.loads(home.run("darkpipe", "dns", "records", "--json"))
    assert told["unknown"] == []
    values = {(each["name"], each["type"]): each["value"] for each in told["records"]}
    assert values["mx.example.com", "A"] == RELAY_ADDRESS
    assert values["1.113.0.203.in-addr.arpa", "PTR"] == "mx.example.com"
    assert {each["domain"] for each in told["records"]} == {"example.com", "example.org", "xn--bcher-kva.example"}
    assert "\nexample.org. 3600 IN MX 10 mx.example.com.\n" in home.run("darkpipe", "dns", "zone", "example.org")
