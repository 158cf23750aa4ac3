"""The relay's files fit what is at home."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bootstrap.server import server_files
from model.tunnel import Addresses, RelayEnd
from relay.render import RelayFile
from stack.stack import Stack
from tests.relay_files import RelaySetting, relay_files

REPOSITORY = Path(__file__).resolve().parent.parent.parent

_KEY = "A" * 43 + "="
_ADDRESSES = Addresses.model_validate(
    {"home4": "10.99.0.1", "relay4": "10.99.0.2", "home6": "fd99::1", "relay6": "fd99::2"}
)
_RELAY = RelaySetting(
    "mx.example.com", ("example.com", "example.org"), RelayEnd(private_key=_KEY, home_key=_KEY, addresses=_ADDRESSES)
)


@pytest.fixture(scope="module")
def files() -> dict[str, RelayFile]:
    return {str(file.path): file for file in relay_files(_RELAY)}


def test_only_root_reads_the_private_key(files: dict[str, RelayFile]) -> None:
    assert [path for path, file in files.items() if _KEY in file.text] == ["/etc/wireguard/home0.conf"]
    assert files["/etc/wireguard/home0.conf"].mode == 0o600


def test_programs_can_be_run(files: dict[str, RelayFile]) -> None:
    assert [path for path, file in files.items() if path.startswith("/usr/") and file.mode != 0o755] == []


def test_connections_go_to_the_ports_that_home_has_for_them(files: dict[str, RelayFile]) -> None:
    text = files["/etc/haproxy/haproxy.cfg"].text
    servers = dict(re.findall(r"backend home-(\d+)\n(?:.*\n)*?\tserver home \[fd99::1\]:(\d+) send-proxy-v2", text))
    home = {port.name: str(port.port) for port in Stack.load(REPOSITORY / "components").tunnel_ports}
    served = {"25": "tunnel-smtp", "465": "tunnel-submissions", "587": "tunnel-submission", "993": "tunnel-imaps"}
    # What answers HTTPS comes to its own port when there is something.
    assert servers == {**{port: home[name] for port, name in served.items()}, "443": "2443"}


def test_the_firewall_lets_the_relay_reach_those_ports(files: dict[str, RelayFile]) -> None:
    allowed = re.search(r'oifname "home0" tcp dport \{ ([\d, ]+) \} accept', files["/etc/nftables.conf"].text)
    servers = re.findall(r"server home \[fd99::1\]:(\d+)", files["/etc/haproxy/haproxy.cfg"].text)
    assert allowed is not None
    assert set(allowed[1].split(", ")) == {*servers, "2500"}


@pytest.mark.parametrize(("ssh", "opened"), [(True, True), (False, False)])
def test_ssh_is_open_on_request_only(ssh: bool, opened: bool) -> None:
    rules = {str(file.path): file.text for file in server_files(_RELAY.tunnel, ssh=ssh)}["/etc/nftables.conf"]
    assert ("993, 443, 22 }" in rules) == opened


def test_postfix_knows_every_domain(files: dict[str, RelayFile]) -> None:
    assert "relay_domains = example.com example.org\n" in files["/etc/postfix/main.cf"].text
