"""A home that pairs with a relay which cloud-init has made, and what must hold over whichever tunnel they have."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path

from bootstrap.ends import Bootstrap
from home import pairing_file
from home.control_errors import ControlFailure
from home.pair_keeper import STATE_FILE, Keeper, make_own
from home.pairing import Change, Claim, Kept, Look, Own, Start, Tick, Which
from home.pairing_file import Document
from model.control import QueueSettings
from model.mtls import MtlsHome
from model.pairing import AgentState
from tests.machine.machine import wait_for
from tests.network.software import Ends

PAIR = ("10.199.0.1", "10.199.0.0")
"""Home's and the relay's address in IPv4, once they are paired."""

_PLACES = ("/etc", "/var/lib", "/run", "/opt")


@dataclass
class PairingHome(ABC):
    """A home: its keys, and a tunnel that goes by relay.json, as darkpipe-tunnel does.

    Args:
        used: the text of relay.json that the tunnel goes by.
    """

    ends: Ends
    bootstrap: Bootstrap
    folder: Path
    used: str = ""
    keeper: Keeper = field(init=False)

    @abstractmethod
    def follow(self, text: str) -> None:
        """Let the tunnel go by another relay.json."""

    @abstractmethod
    def is_up(self) -> bool:
        """Tell whether the tunnel is up, by the keys of now."""

    def start(self) -> None:
        document = pairing_file.read(self.folder / STATE_FILE) or Document(self.bootstrap.home, Kept("a" * 32))
        self.keeper = Keeper(document, self.folder, self.folder / "relay.json", lambda _: None, lambda: None)
        self.keeper.happen(Start(time.monotonic()))

    def own(self) -> Own:
        return make_own("darkpipe-home", PAIR, mtls=isinstance(self.bootstrap.home, MtlsHome))

    def change(self) -> None:
        self.keeper.happen(Change(time.monotonic(), self.own()))

    def step(self) -> None:
        text = (self.folder / "relay.json").read_text()
        if text != self.used:
            self.used = text
            self.follow(text)
        up = self.is_up()
        self.ends.home.call(lambda: self.keeper.happen(Tick(time.monotonic(), up)))

    def until(self, what: str, seconds: float = 150.0) -> None:
        """Go on until home and relay are paired and no change is under way."""
        end = time.monotonic() + seconds
        while not self.is_paired:
            assert time.monotonic() < end, f"{what}: {self.keeper.state}"
            self.step()
            time.sleep(0.3)
        assert self.state().paired

    @property
    def is_paired(self) -> bool:
        kept = self.keeper.state.kept
        return kept.base is not None and kept.own is None

    def state(self) -> AgentState:
        def ask() -> AgentState:
            with self.keeper.client(self.keeper.state.kept.base) as client:
                return client.request("GET", "/state").message(AgentState)

        return self.ends.home.call(ask)

    def asked(self) -> AgentState:
        """Go on, and ask the relay; it may not answer now."""
        self.step()
        try:
            return self.state()
        except ControlFailure:
            return AgentState(0, "", paired=False, clock=0)

    def push(self, settings: QueueSettings) -> None:
        def act() -> None:
            with self.keeper.client(self.keeper.state.kept.base) as client:
                client.send("PUT", "/settings", settings)

        self.ends.home.call(act)

    def secrets(self) -> list[str]:
        """Give a line of each private key of the bootstrap."""
        keys = (self.bootstrap.relay.private_key, self.bootstrap.home.private_key)
        return [next(line for line in key.splitlines() if not line.startswith("-")) for key in keys]

    def files_with(self, text: str, *more: str) -> str:
        """Name the relay's files that hold a text."""
        # The seed stands for the provider's own record of the user-data, which nobody here can reach.
        return self.ends.vps.run("grep", "-rlsF", "--exclude-dir=seed", text, *_PLACES, *more, check=False)


def check_first_pairing(home: PairingHome) -> None:
    """They pair, the bootstrap's keys are gone, and the addresses are those that home has offered."""
    home.change()
    home.until("pairing")
    vps = home.ends.vps
    wait_for(lambda: "darkpipe-retire" in vps.run("journalctl", "--no-pager", "-o", "cat"), "the copies to go")
    for secret in home.secrets():
        assert home.files_with(secret, "/var/log") == ""
    assert str(home.keeper.end.addresses.home4) == PAIR[0]
    assert f"inet {PAIR[1]}/32" in vps.run("ip", "-4", "address", "show", "home0")


def check_change_under_pings(home: PairingHome, longest: float) -> None:
    """Keys change while something flows through the tunnel, and the longest pause is a matter of seconds."""
    pauses, stopped = [0.0], threading.Event()

    def talk() -> None:
        latest = time.monotonic()
        while not stopped.is_set():
            if home.ends.home.pings(home.ends.relay):
                pauses.append(time.monotonic() - latest)
                latest = time.monotonic()
            time.sleep(0.1)

    before = home.keeper.end.relay_key
    talking = threading.Thread(target=talk)
    talking.start()
    try:
        home.change()
        home.until("the change")
        time.sleep(3)
    finally:
        stopped.set()
        talking.join()
    assert home.keeper.end.relay_key != before
    assert len(pauses) > 3, "something was measured"
    assert max(pauses) < longest, pauses


def check_power_cut(home: PairingHome, moment: Which) -> None:
    """Home and relay have no power in the middle of a change, and carry on with it."""
    home.change()
    while home.keeper.state.using is not moment:
        home.step()
        time.sleep(0.1)
    home.ends.vps.pull_plug()
    home.ends.vps.start()
    home.start()
    home.until("the change", 240)


def check_user_data_again(home: PairingHome) -> None:
    """They write the tunnel's files anew, with the bootstrap's keys, start the tunnel by them, and change no keys."""
    vps, before = home.ends.vps, home.keeper.end
    vps.run("cloud-init", "clean", "--logs")
    vps.pull_plug()
    assert vps.start().cloud_init().status == "done", vps.log()
    wait_for(lambda: home.asked().paired, "the relay answers", 120)
    assert home.keeper.end == before
    wait_for(lambda: not home.files_with(home.secrets()[0]), "the bootstrap's key to go")


def check_claim(home: PairingHome) -> None:
    """A relay that was built anew is found, and claimed after consent."""
    before = home.keeper.state.kept.base
    home.keeper.happen(Look(time.monotonic()))
    end = time.monotonic() + 120
    while not home.keeper.state.kept.rebuilt:
        assert time.monotonic() < end, home.keeper.state
        home.step()
        time.sleep(0.3)
    assert home.keeper.state.kept.base == before
    home.keeper.happen(Claim(time.monotonic(), home.own()))
    home.until("the claim", 240)
