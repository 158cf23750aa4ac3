"""A relay's agent at work with its real listener and disk; only WireGuard and systemd are stand-ins."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from builder.greeting import free_port
from home.control_client import ControlClient, Home
from model.control_tls import Pins
from model.pairing import Confirm, Counter, Offer
from relay import pairing_file
from relay.agent import Agent
from relay.keeper import Folders, Keeper
from relay.machine import System
from relay.pairing import DELAY, Kept, Keys
from relay.unlock import UnlockFolder
from tests.unit.certificates import some_certificates

HOME = "a" * 32
KEYS = [f"{number:042d}A=" for number in range(10)]
_numbers = itertools.count(500)


class TunnelStandIn:
    """Stands for WireGuard."""

    def __init__(self) -> None:
        self.used: list[Keys] = []
        self.settled: list[Keys] = []

    def use(self, keys: Keys, /) -> None:
        self.used.append(keys)

    def settle(self, keys: Keys, /) -> None:
        self.settled.append(keys)

    def networks(self) -> Sequence[IPv4Network]:
        return [IPv4Network("10.0.0.0/16")]

    def new_key(self) -> tuple[str, str]:
        number = next(_numbers)
        return f"{number:042d}A=", f"{number:042d}E="


class SystemStandIn(System):
    """Stands for systemd."""

    def run(self, *_: str) -> str:
        return ""

    def try_run(self, *_: str) -> tuple[int, str]:
        return 0, ""

    def user(self, _: str) -> int | None:
        return None


@dataclass
class Relay:
    """A relay whose clock runs as it is told to."""

    folders: Folders
    port: int
    now: float = 100.0
    tunnel: TunnelStandIn = field(default_factory=TunnelStandIn)
    told: list[str] = field(default_factory=list)
    agent: Agent | None = None

    def start(self) -> None:
        self.stop()
        kept = pairing_file.read(self.folders.state)
        if kept is None:
            kept = Kept("b" * 32, Keys(KEYS[0], KEYS[1], "", KEYS[2], "", "10.200.0.1", "10.200.0.0"))
        keeper = Keeper(
            kept,
            self.tunnel,
            self.folders,
            lambda: self.told.append("changed"),
            lambda: self.told.append("settled"),
            lambda: self.now,
        )
        keeper.start()
        unlock = UnlockFolder(self.folders.base)
        self.agent = Agent(keeper, self.folders, SystemStandIn(), "127.0.0.1", self.port, unlock)
        self.agent.look()

    def wait(self, seconds: float) -> None:
        assert self.agent
        self.now += seconds
        self.agent.look()

    def stop(self) -> None:
        if self.agent:
            self.agent.stop()

    def client(self, pins: Pins | None, relay: str = "", epoch: int = 0) -> ControlClient:
        return ControlClient(("127.0.0.1", self.port), Home(HOME, epoch, relay), pins)


@contextmanager
def relay_at_work(folder: Path, monkeypatch: pytest.MonkeyPatch, kept: Kept | None = None) -> Iterator[Relay]:
    """Make a relay, whose agent is at work while the context is open.

    Args:
        kept: what it knows at first; without it, a bootstrap of some keys of ours.
    """
    made = Relay(Folders(folder), free_port())
    for name in ("agent", "control", "config"):
        (folder / name).mkdir(parents=True)
    if kept:
        pairing_file.write(made.folders.state, kept)
    monkeypatch.setattr("relay.agent_api.monotonic", lambda: made.now)
    made.start()
    yield made
    made.stop()


def make_offer(number: int = 5, certificate: int = 0) -> Offer:
    """Give home's offer of a key and a certificate, by their numbers."""
    return Offer(
        HOME, 0, KEYS[number], some_certificates()[certificate][1], "10.200.0.1", "10.200.0.0", int(time.time())
    )


def pins_of(folder: Path, counter: Counter, certificate: int = 0) -> Pins:
    """Give what home pins after the relay's answer; its own certificate goes into the folder."""
    path = folder / f"home-{certificate}.pem"
    path.write_text(some_certificates()[certificate][0])
    return Pins(path, counter.certificate, server=False)


def pair(relay: Relay, folder: Path) -> tuple[Pins, Counter]:
    """Pair home with a relay; gives what home pins, and the relay's answer."""
    with relay.client(None) as client:
        counter = client.send("POST", "/exchange", make_offer()).message(Counter)
    relay.wait(DELAY + 1)
    pins = pins_of(folder, counter)
    with relay.client(pins, counter.relay) as client:
        assert client.send("POST", "/confirm", Confirm(KEYS[5])).message(Confirm).key == KEYS[5]
    return pins, counter
