"""Keys that change on a disk that is full, with tools that fail, and programs that are killed in between."""

from __future__ import annotations

import itertools
import shutil
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from home import pair_keeper
from home import pairing as home
from home.pairing_file import Document
from home.pairing_file import read as read_document
from home.relay_peer import CONTROL, PEER, RELAY
from model.pairing import Confirm, Counter, Offer
from relay import pairing_file
from relay.control import Response
from relay.keeper import Folders, Keeper
from relay.link import LinkError
from relay.pairing import DELAY, Confirmed, Heard, Keys, Made, Offered
from tests.unit.certificates import some_certificates
from tests.unit.pairing_world import bootstrap_end, bootstrap_keys, fresh_relay, make_own
from tests.unit.power_cut import PowerCut, full_disk, power_cut

_HOME, _EPOCH = "a" * 32, 7


@dataclass
class _Tunnel:
    """The relay's end of the tunnel; a tool of it fails now and then."""

    used: Keys | None = None
    settled: Keys | None = None
    fails: int = 0

    def use(self, keys: Keys) -> None:
        self._try()
        self.used = keys

    def settle(self, keys: Keys) -> None:
        self._try()
        self.settled = keys

    def networks(self) -> list[IPv4Network]:
        return []

    def new_key(self) -> tuple[str, str]:
        raise AssertionError("nobody asks for one here")

    def _try(self) -> None:
        self.fails -= 1
        if self.fails == 0:
            raise LinkError("wg set: no such device")


@dataclass
class _Relay:
    """A relay with an agent, and a queue that reads its files when it is told to."""

    folders: Folders
    tunnel: _Tunnel = field(default_factory=_Tunnel)
    queue: dict[str, bytes] = field(default_factory=dict)
    now: float = 0.0

    def __post_init__(self) -> None:
        for name in ("agent", "control", "config"):
            (self.folders.base / name).mkdir(parents=True)
        pairing_file.write(self.folders.state, fresh_relay())
        self.start()

    def start(self) -> None:
        kept = pairing_file.read(self.folders.state)
        assert kept
        self.keeper = Keeper(kept, self.tunnel, self.folders, self._told, lambda: None, lambda: self.now)
        self.keeper.start()

    def files(self) -> dict[str, bytes]:
        base = self.folders.base
        return {
            str(path.relative_to(base)): path.read_bytes()
            for folder in ("control", "config")
            for path in (base / folder).iterdir()
            if path.suffix != ".new"
        }

    def _told(self) -> None:
        self.queue = self.files()

    def pair(self) -> None:
        """Do what home asks for; it asks until it is answered."""
        key, public, pem, certificate = "k", bootstrap_keys(mtls=False)[1], *some_certificates()[1]
        offer = Offer(
            _HOME,
            0,
            bootstrap_keys(mtls=False)[3],
            some_certificates()[0][1],
            "10.200.0.1",
            "10.200.0.0",
            int(time.time()),
        )
        made = Made(key, public, pem, certificate)
        if not self.keeper.state.kept.paired:
            self.keeper.happen(Offered(self.now, offer.clock, offer, (), made))
            self.now += DELAY + 1
            self.keeper.tick()
        answer = self.keeper.happen(Confirmed(Confirm(offer.key)))
        assert answer == Response.of(Confirm(offer.key))

    def rise(self) -> None:
        """Let home be heard with a higher epoch."""
        self.keeper.happen(Heard(_EPOCH))

    def check(self, epoch: int = 0) -> None:
        kept = self.keeper.state.kept
        assert kept.paired
        assert self.tunnel.used == self.tunnel.settled == kept.base
        files = self.files()
        assert files["control/home.pem"].decode() == kept.base.home_certificate
        assert f'"home_epoch": {epoch}'.encode() in files["config/fence.json"]
        assert self.queue == files, "the queue has read what is there"


@pytest.fixture
def new_relay(tmp_path: Path) -> Callable[[], _Relay]:
    numbers = itertools.count()
    return lambda: _Relay(Folders(tmp_path / f"relay-{next(numbers)}"))


_STEPS = [(_Relay.pair, 0), (_Relay.rise, _EPOCH)]
"""What happens, and home's epoch afterwards; the second follows the first."""


@pytest.mark.parametrize("which", [0, 1], ids=["pairing", "fence"])
def test_a_relay_whose_disk_is_full_does_the_rest_when_there_is_room(
    new_relay: Callable[[], _Relay], which: int
) -> None:
    step, epoch = _STEPS[which]
    for number in itertools.count():
        relay = new_relay()
        for before, _ in _STEPS[:which]:
            before(relay)
        try:
            with full_disk(number):
                step(relay)
        except OSError:
            with suppress(OSError), full_disk(0):
                relay.keeper.tick()  # still full
            relay.keeper.tick()
            step(relay)
            relay.check(epoch)
        else:
            assert number > 5
            relay.check(epoch)
            return


@pytest.mark.parametrize("which", [0, 1], ids=["pairing", "fence"])
def test_a_relay_whose_agent_is_killed_does_the_rest_at_its_next_start(
    new_relay: Callable[[], _Relay], which: int
) -> None:
    step, epoch = _STEPS[which]
    for number in itertools.count():
        relay = new_relay()
        for before, _ in _STEPS[:which]:
            before(relay)
        try:
            with power_cut(number):
                step(relay)
        except PowerCut:
            relay.start()
            step(relay)
            relay.check(epoch)
        else:
            assert number > 5
            return


@pytest.mark.parametrize("fails", [1, 2], ids=["use", "settle"])
def test_a_tool_that_fails_once_is_tried_again_before_home_is_told(new_relay: Callable[[], _Relay], fails: int) -> None:
    relay = new_relay()
    relay.tunnel.fails = fails
    for _ in range(2):
        with suppress(LinkError):
            relay.pair()
    relay.pair()
    relay.check()


class _Home:
    """A home, and a program of it that reads its files when it is told to."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.program: dict[str, str] = {}
        self.start()

    def start(self) -> None:
        document = read_document(self.folder / "state.json") or Document(bootstrap_end(), home.Kept(_HOME))
        self.keeper = pair_keeper.Keeper(
            document, self.folder, self.folder / "relay.json", lambda _: None, self._read, lambda: 0.0
        )
        self.keeper.happen(home.Start(0.0))

    def files(self) -> dict[str, str]:
        return {name: path.read_text() for name in (PEER, CONTROL, RELAY) if (path := self.folder / name).exists()}

    def _read(self) -> None:
        self.program = self.files()

    def change(self) -> None:
        """Change to new keys, as far as that was not done."""
        kept = self.keeper.state.kept
        if kept.base is None and kept.own is None:
            self.keeper.happen(home.Change(0.0, make_own()))
        if kept.base is None:
            self.keeper.happen(
                home.Answered(0.0, Counter("b" * 32, bootstrap_keys(mtls=False)[3], some_certificates()[2][1]))
            )
            self.keeper.happen(home.Done(0.0, 1))


@pytest.mark.parametrize("fault", [power_cut, full_disk])
def test_homes_programs_hear_of_new_keys_whenever_pairing_was_killed_or_had_no_room(
    tmp_path: Path, fault: Callable[[int], AbstractContextManager[None]]
) -> None:
    """The service begins anew after either."""
    for number in itertools.count():
        (folder := tmp_path / str(number)).mkdir()
        device = _Home(folder)
        try:
            with fault(number):
                device.change()
        except (PowerCut, OSError):
            device.start()
            device.change()
        else:
            assert number > 5
            return
        assert device.keeper.state.kept.base
        assert device.program == device.files(), number
        assert set(device.program) == {PEER, CONTROL, RELAY}
        shutil.rmtree(folder)
