"""The Internet, a relay in it, and keys for the tunnel to its home; cloud machines that become a relay."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from builder.archive import Archive
from builder.build import open_workshop
from builder.cache import Cache
from builder.progress import Stages
from builder.sandbox import remove_tree
from model.mtls import MtlsHome, MtlsRelay
from model.tunnel import HOME_FILE, Addresses, HomeEnd, RelayEnd
from tests.cloud.root import RELAY_PACKAGES, CloudSystem, Suite, cloud_root
from tests.cloud.seed import Seed
from tests.cloud.vps import Vps
from tests.machine.conftest import SEED, new_machine, root  # noqa: F401 (fixtures)
from tests.machine.machine import Machine, unpack, wait_for, why_not
from tests.network.internet import Internet, make_internet
from tests.network.net import Namespace, join, namespace
from tests.network.relay import Relay, running_relay
from tests.relay_files import RelaySetting

RELAY_NAME = "mx.example.com"
RELAY_ADDRESS, RELAY_ADDRESS_6 = "203.0.113.1", "2001:db8:1::1"
SENDER_ADDRESS, SENDER_ADDRESS_6 = "203.0.113.9", "2001:db8:1::9"
"""Of a mail server somewhere in the world."""

FAMILIAR_ADDRESS, FAMILIAR_ADDRESS_6 = "192.168.77.9", "fd77::9"
"""Of a sender that home's rspamd takes for no stranger, so that nothing has to be sent twice."""

UPLINK_ADDRESS, HOME_ADDRESS = "198.51.100.1", "198.51.100.2"
"""Of the router between home and the world, and of home."""

DOMAINS = ("example.com", "example.org", "xn--bcher-kva.example")

ADDRESSES = Addresses.model_validate(
    {"home4": "10.99.0.1", "relay4": "10.99.0.2", "home6": "fd99::1", "relay6": "fd99::2"}
)


NewVps = Callable[[str], Vps]
"""Makes a cloud machine that is off, from its user-data; it is plugged in to the Internet."""


@dataclass(frozen=True)
class Ends:
    """Both ends of one tunnel, with fixed keys."""

    home: HomeEnd
    relay: RelayEnd


@dataclass(frozen=True)
class MtlsEnds:
    """The same over TCP."""

    home: MtlsHome
    relay: MtlsRelay


def make_ends(place: Namespace) -> Ends:
    """Make the keys of a tunnel with wg(8)."""
    home, relay = (place.run("wg", "genkey").strip() for _ in range(2))
    home_key, relay_key = (place.run("wg", "pubkey", stdin=key).strip() for key in (home, relay))
    return Ends(
        HomeEnd(private_key=home, relay_key=relay_key, relay=RELAY_ADDRESS, addresses=ADDRESSES),
        RelayEnd(private_key=relay, home_key=home_key, addresses=ADDRESSES),
    )


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Give a folder on a disk, for layers over a root and for queues."""
    folder = Path(tempfile.mkdtemp(prefix="darkpipe-network-", dir="/var/tmp"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def world() -> Iterator[Namespace]:
    """The Internet: one network, with a mail server's addresses in it."""
    with namespace() as made:
        yield made


@pytest.fixture(scope="module")
def ends(world: Namespace) -> Ends:
    return make_ends(world)


@pytest.fixture(scope="module")
def relay(world: Namespace, ends: Ends | MtlsEnds, root: Path) -> Iterator[Relay]:  # noqa: F811
    """A relay that runs, and knows its home."""
    with namespace() as place, scratch_folder() as scratch:
        networks = (
            (f"{SENDER_ADDRESS}/24", f"{RELAY_ADDRESS}/24"),
            (f"{SENDER_ADDRESS_6}/64", f"{RELAY_ADDRESS_6}/64"),
        )
        join(world, place, ("relay", "eth0"), *networks)
        world.run("sysctl", "--quiet", "--write", "net.ipv4.ip_forward=1")
        for address in (FAMILIAR_ADDRESS, FAMILIAR_ADDRESS_6):
            world.add_address(address)
        place.run("ip", "route", "add", "default", "via", SENDER_ADDRESS)
        place.run("ip", "route", "add", "default", "via", SENDER_ADDRESS_6)
        with running_relay(place, RelaySetting(RELAY_NAME, DOMAINS, ends.relay), root, scratch) as made:
            yield made


@pytest.fixture(scope="session")
def cloud_tree(request: pytest.FixtureRequest) -> Path:
    """The unpacked root of a cloud machine that has the relay's packages already."""
    suite = Suite(request.config.getoption("--relay-suite"))
    if reason := why_not():
        pytest.skip(reason)
    shop = open_workshop(Cache(Cache.default().root, remove_tree), Archive.from_environment(), Stages())
    system = cloud_root(shop, CloudSystem(suite, installed=RELAY_PACKAGES))
    return unpack(system.tar, shop.cache.root / f"machine-{suite}")


@pytest.fixture(scope="module")
def internet() -> Iterator[Internet]:
    """A router with a cable to each machine."""
    with make_internet() as made:
        yield made


@pytest.fixture(scope="module")
def new_vps(cloud_tree: Path, internet: Internet) -> Iterator[NewVps]:
    """Makes cloud machines, each in its own network."""
    with ExitStack() as stack:
        numbers = iter(range(1, 100))

        def make(user_data: str) -> Vps:
            scratch, network = stack.enter_context(scratch_folder()), stack.enter_context(namespace())
            site = internet.plug(network, next(numbers))
            vps = Vps(cloud_tree, scratch, network, Seed(user_data, interfaces=[site.interface("eth0")]))
            stack.callback(vps.stop)
            return vps

        yield make


@pytest.fixture(scope="module")
def home(
    world: Namespace,
    relay: Relay,
    ends: Ends | MtlsEnds,
    new_machine: Callable[[str], Machine],  # noqa: F811
) -> Iterator[Machine]:
    """A home device somewhere in the Internet, whose seed holds its half of the tunnel."""
    machine = new_machine(f"{SEED}relays: [{{address: {RELAY_ADDRESS}, offline: tempfail}}]\n")
    (machine.boot_partition / HOME_FILE).write_text(ends.home.model_dump_json())
    machine.start()
    plug_in(machine, world)
    know(machine, 'local-zone: "." static')
    wait_for(lambda: relay.home_is("UP"), "home and relay have found each other")
    yield machine
    machine.stop()


_UNBOUND = "/data/darkpipe/config/current/unbound/unbound.conf"


def know(home: Machine, *zones: str) -> None:
    """Let home's unbound know some names, and no others: the Internet of the tests has no servers that it could ask.

    Args:
        zones: lines of unbound.conf(5).
    """
    own = home.run("cat", _UNBOUND).partition("\nserver: # of the test\n")[0]
    home.run("tee", _UNBOUND, stdin=(own + "\nserver: # of the test\n" + "\n".join(zones) + "\n").encode())
    home.run("systemctl", "restart", "unbound")


def plug_in(machine: Machine, world: Namespace, address: str = HOME_ADDRESS) -> None:
    """Connect a home to the Internet, which does not reach it by itself."""
    # Debian's udev lets everybody open it; a container has no udev. The kernel asks for CAP_NET_ADMIN all the same.
    machine.run("chmod", "0666", "/dev/net/tun")
    place = Namespace(machine.leader)
    try:
        join(world, place, ("home", "wan0"), (f"{UPLINK_ADDRESS}/24", f"{address}/24"))
        place.run("ip", "route", "add", "default", "via", UPLINK_ADDRESS)
    finally:
        place.close()
