"""The tests' own cloud machine: a real cloud-init, a network as a provider gives it, tunnels and a firewall."""

from __future__ import annotations

import socket

import pytest

from tests.cloud.vps import Vps
from tests.machine.machine import wait_for
from tests.network.conftest import NewVps
from tests.network.internet import Internet, Site

STRANGERS = {"203.0.113.7": 4, "203.0.113.8": 4, "2001:db8:ffff::7": 6}
SITE = Site(1)

_ECHO = "c, a = s.accept(); c.sendall(a[0].encode()); c.close()"

USER_DATA = """\
#cloud-config
write_files:
  - {path: /etc/written, content: "by cloud-init\\n", permissions: "0640"}
runcmd:
  - "echo once >>/var/lib/ran"
"""


@pytest.fixture(scope="module")
def vps(new_vps: NewVps, internet: Internet) -> Vps:
    """A machine with harmless user-data, and strangers on the Internet."""
    for address in STRANGERS:
        internet.router.add_address(address)
    return new_vps(USER_DATA).start()


def test_cloud_init_does_what_the_user_data_says(vps: Vps) -> None:
    assert vps.cloud_init().clean, vps.log()
    assert vps.failed_units() == []
    assert (vps.files / "etc/written").read_text() == "by cloud-init\n"
    assert vps.run("cat", "/var/lib/ran") == "once\n"


@pytest.mark.parametrize(
    ("user_data", "reason"),
    [
        ("#cloud-config\nruncmd:\n  - [sh, -c, 'exit 3']\n", "scripts_user"),
        ("#cloud-config\nruncmd: [\n", "yaml"),
    ],
)
def test_broken_user_data_is_told(new_vps: NewVps, user_data: str, reason: str) -> None:
    vps = new_vps(user_data).start()
    result = vps.cloud_init()
    assert not result.clean
    assert reason in str(result)
    vps.stop()


@pytest.mark.parametrize("stranger", STRANGERS)
def test_strangers_reach_it_and_are_known_by_their_addresses(vps: Vps, internet: Internet, stranger: str) -> None:
    target = SITE.address6 if STRANGERS[stranger] == 6 else SITE.address
    assert internet.router.reachable([22, 9], target) == {22}
    assert "1 received" in vps.run("ping", "-c1", "-W5", stranger)
    # What it answers to comes from where it seems to.
    listen = f"import socket; s = socket.create_server(('{target}', 7), family=socket.AF_INET{'6' * (':' in target)})"
    vps.run("systemd-run", "--quiet", "--collect", "--unit=echo", "python3", "-c", f"{listen}; {_ECHO}")
    wait_for(lambda: ":7 " in vps.run("ss", "--listening", "--tcp", "--numeric"), "the server")
    assert internet.router.call(_ask, target, stranger) == stranger


def _ask(target: str, source: str) -> str:
    with socket.create_connection((target, 7), 10, (source, 0)) as connection:
        return connection.recv(100).decode()


def test_wireguard_has_an_interface(vps: Vps) -> None:
    vps.run("wireguard-go", "test0")
    vps.run("sh", "-c", "wg genkey | wg set test0 listen-port 51820 private-key /dev/stdin")
    vps.run("ip", "address", "add", "10.98.0.1/32", "dev", "test0")
    vps.run("ip", "link", "set", "test0", "up")
    assert "listening port: 51820" in vps.run("wg", "show", "test0")


def test_without_its_plug_it_forgets_its_network_and_keeps_its_files(vps: Vps, internet: Internet) -> None:
    vps.run("nft", "-f", "-", stdin=b"table inet t { chain c { type filter hook input priority 0; policy drop; }; }")
    vps.run("sysctl", "--write", "net.ipv4.ip_forward=1")
    assert not internet.router.can_connect(22, SITE.address)
    vps.pull_plug()
    vps.start()
    assert vps.cloud_init().clean, vps.log()
    assert vps.run("nft", "list", "ruleset") == ""
    assert vps.run("cat", "/proc/sys/net/ipv4/ip_forward") == "0\n"
    assert internet.router.can_connect(22, SITE.address)
    assert vps.run("cat", "/var/lib/ran") == "once\n", "it is the same machine, not a new one"
