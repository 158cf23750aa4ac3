"""The relay from the very beginning: a cloud machine with kernel and disk, user-data, Debian's archive, a bundle."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from builder.archive import Archive
from builder.bootstrap import open_bootstrap
from builder.build import open_workshop
from builder.cache import Cache
from builder.emulator import Forward
from builder.greeting import free_port
from builder.progress import Stages
from builder.sandbox import remove_tree
from builder.tools import host_architecture
from model.document import parse_site
from model.tunnel import HomeEnd
from tests.bundles import AGENT, other_bundle
from tests.cloud.judge import AWAY, OWN, RECIPIENTS, answers, check_answers
from tests.cloud.qemu import EmulatedVps, emulated_vps
from tests.cloud.root import Architecture, CloudSystem, Suite, cloud_root
from tests.cloud.seed import Seed
from tests.cloud.site import SETTINGS, SITE_TEXT
from tests.cloud.status import CloudInit
from tests.images.machine import REPOSITORY
from tests.machine.machine import wait_for

pytestmark = pytest.mark.skipif(host_architecture() != "amd64", reason="both machines are emulated by amd64's programs")

_CLOUD_INIT_SECONDS = 1500.0


@dataclass(frozen=True)
class Relay:
    """The machine after its first start.

    Args:
        smtp: local port that leads to its port 25.
        first: what cloud-init said.
    """

    vps: EmulatedVps
    smtp: int
    first: CloudInit


@pytest.fixture(scope="module")
def suite(request: pytest.FixtureRequest) -> Suite:
    """The Debian version that the provider gives."""
    return Suite(request.config.getoption("--relay-suite"))


@pytest.fixture(scope="module")
def architecture(request: pytest.FixtureRequest) -> Architecture:
    """The processor that the provider gives."""
    return Architecture(request.config.getoption("--relay-architecture"))


@pytest.fixture(scope="module")
def relay(suite: Suite, architecture: Architecture, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Relay]:
    """A machine that got what `./darkpipe user-data` prints."""
    scratch = tmp_path_factory.mktemp("relay")
    site = scratch / "site.yaml"
    site.write_text(SITE_TEXT, encoding="utf-8")
    command = [str(REPOSITORY / "darkpipe"), "--yes", "user-data", str(site)]
    printed = subprocess.run(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True, check=True).stdout
    shop = open_workshop(Cache(Cache.default().root, remove_tree), Archive.from_environment(), Stages())
    root = cloud_root(shop, CloudSystem(suite, bootable=True, architecture=architecture))
    smtp = free_port()
    with emulated_vps(shop, root, Seed(printed), scratch / "console.log", [Forward(smtp, 25)]) as vps:
        first = _wait_for_cloud_init(vps)
        bootstrap = open_bootstrap(site, parse_site(SITE_TEXT, site.name).relays[0])
        assert isinstance(bootstrap.home, HomeEnd)
        _bring_software(vps, bootstrap.home, scratch / "bundle")
        yield Relay(vps, smtp, first)


_HOME = """\
set -e
ip netns add home
ip link add v0 type veth peer name v1 netns home
ip address add 192.0.2.1/30 dev v0
ip link set v0 up
cat >/run/home.sh <<'END'
ip link add relay0 type wireguard
echo {home.private_key} | wg set relay0 private-key /dev/stdin peer {home.relay_key} endpoint 192.0.2.1:51820 \
 allowed-ips {home.addresses.relay6}/128
ip address add 192.0.2.2/30 dev v1
ip address add {home.addresses.home6}/128 dev relay0 nodad
ip link set v1 up
ip link set relay0 up
ip route add {home.addresses.relay6} dev relay0
END
ip netns exec home sh -e /run/home.sh
"""
"""Makes a home inside of the machine itself: a network that the kernel's WireGuard joins with it."""


def _bring_software(vps: EmulatedVps, home: HomeEnd, folder: Path) -> None:
    """Do what home does: bring the bundle to the receiver, and settings to its agent."""
    folder.mkdir()
    bundle = other_bundle(folder, {"relay/agent.py": AGENT})
    (folder / "home.sh").write_text(_HOME.format(home=home))
    (folder / "settings.json").write_bytes(SETTINGS.to_json())
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for name in ("home.sh", "bundle.tar", "settings.json"):
            # The host, as QEMU's own network has it.
            vps.lines(f"curl -sSf -o /run/{name} http://10.0.2.2:{server.server_port}/{name}")
        server.shutdown()
    vps.lines("sh /run/home.sh")
    agent = f"http://[{home.addresses.relay6}]:2601"
    curl = "ip netns exec home curl -sS -g -H Expect:"
    answer = vps.console.run(f"{curl} -T /run/bundle.tar '{agent}/bundle?id={bundle.id}'", _CLOUD_INIT_SECONDS).output
    assert '"state": "installed"' in answer, answer
    headers = "-H 'DarkPipe-Protocol: 1' -H 'DarkPipe-Home-Epoch: 0'"
    put = f"{curl} -f {headers} -X PUT --data-binary @/run/settings.json {agent}/settings"
    done = vps.console.run(put, _CLOUD_INIT_SECONDS)
    assert done.status == 0, f"{done} {vps.console.run('journalctl -u darkpipe-* --no-pager | tail -30').output}"


def _wait_for_cloud_init(vps: EmulatedVps) -> CloudInit:
    vps.console.run("cloud-init status --wait", _CLOUD_INIT_SECONDS)
    vps.console.run("systemctl is-system-running --wait", _CLOUD_INIT_SECONDS)
    # Its exit status says the same again.
    return CloudInit.parse(vps.console.run("cloud-init status --format=json").output)


def test_cloud_init_ends_well_and_no_unit_has_failed(relay: Relay) -> None:
    assert relay.first.clean, relay.vps.console.run("cat /var/log/cloud-init-output.log").output
    assert relay.vps.lines("systemctl list-units --failed --plain --no-legend --full") == []


def test_the_user_data_are_valid(relay: Relay) -> None:
    said = relay.vps.lines("cloud-init schema --system")
    # The words of version 22, of Debian 12, are "Valid cloud-config".
    assert any("Valid schema user-data" in line or line.startswith("Valid cloud-config") for line in said), said


_SEAL = """\
import sys; sys.path.insert(0, '/opt/darkpipe/current/lib'); import obstore, pyrage; \
found = pyrage.x25519.Identity.generate(); sealed = pyrage.encrypt(b'letter', [found.to_public()]); \
print(pyrage.decrypt(sealed, [found]).decode(), obstore.__name__)"""


def test_what_is_compiled_runs_on_its_processor(relay: Relay, architecture: Architecture) -> None:
    """Home brings the wheels for all; the relay takes its own."""
    assert relay.vps.lines("dpkg --print-architecture") == [architecture]
    assert relay.vps.lines(f'python3 -I -c "{_SEAL}"') == ["letter obstore"]


def test_it_came_with_debians_security_updates(relay: Relay) -> None:
    pending = [line for line in relay.vps.lines("apt-get --simulate upgrade") if line.startswith("Inst ")]
    assert pending == []
    assert relay.vps.lines("systemctl is-active apt-daily-upgrade.timer") == ["active"]


def test_it_asks_senders_to_come_again_and_is_no_open_relay(relay: Relay) -> None:
    _check_answers(relay)


def test_its_tunnel_waits_for_home_in_the_kernel(relay: Relay) -> None:
    link = json.loads("".join(relay.vps.lines("ip -json -details link show home0")))
    assert (link[0]["linkinfo"]["info_kind"], link[0]["mtu"]) == ("wireguard", 1280)


def test_a_second_run_is_harmless(request: pytest.FixtureRequest, relay: Relay) -> None:
    if not request.config.getoption("--relay-again"):
        pytest.skip("three more minutes; ./dev test relay, and the network tier without the kernel")
    before = relay.vps.lines("sha256sum /etc/postfix/*.pem")
    assert relay.vps.console.run("cloud-init clean --logs").status == 0
    relay.vps.console.reboot()
    relay.vps.console.log_in()
    second = _wait_for_cloud_init(relay.vps)
    assert (second.status, list(second.errors)) == ("done", [])
    assert relay.vps.lines("systemctl list-units --failed --plain --no-legend --full") == []
    assert relay.vps.lines("sha256sum /etc/postfix/*.pem") == before
    _check_answers(relay)


def _check_answers(relay: Relay) -> None:
    wait_for(lambda: answers("127.0.0.1", relay.smtp, [OWN])[OWN][0] in AWAY, "the relay has seen that home is away")
    check_answers(answers("127.0.0.1", relay.smtp, RECIPIENTS))
