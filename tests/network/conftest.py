"""The Internet, a relay in it, and keys for the tunnel to its home."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from builder.relay_files import RelaySetting
from model.tunnel import Addresses, HomeEnd, RelayEnd
from tests.machine.conftest import root  # noqa: F401 (a fixture)
from tests.network.net import Namespace, join, namespace
from tests.network.relay import Relay, running_relay

RELAY_NAME = "mx.example.com"
RELAY_ADDRESS, RELAY_ADDRESS_6 = "203.0.113.1", "2001:db8:1::1"
SENDER_ADDRESS, SENDER_ADDRESS_6 = "203.0.113.9", "2001:db8:1::9"
"""Of a mail server somewhere in the world."""

UPLINK_ADDRESS = "198.51.100.1"
"""Of the router between home and the world, on home's side; the world's addresses are behind it."""

DOMAINS = ("example.com", "example.org", "xn--bcher-kva.example")

ADDRESSES = Addresses.model_validate(
    {"home4": "10.99.0.1", "relay4": "10.99.0.2", "home6": "fd99::1", "relay6": "fd99::2"}
)


@dataclass(frozen=True)
class Ends:
    """Both ends of one tunnel, with fixed keys."""

    home: HomeEnd
    relay: RelayEnd


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
def relay(world: Namespace, ends: Ends, root: Path) -> Iterator[Relay]:  # noqa: F811
    """A relay that runs, and knows its home."""
    with namespace() as place, scratch_folder() as scratch:
        networks = (
            (f"{SENDER_ADDRESS}/24", f"{RELAY_ADDRESS}/24"),
            (f"{SENDER_ADDRESS_6}/64", f"{RELAY_ADDRESS_6}/64"),
        )
        join(world, place, ("relay", "eth0"), *networks)
        with running_relay(place, RelaySetting(RELAY_NAME, DOMAINS, ends.relay), root, scratch) as made:
            yield made
