"""The relay's agent with its real listener and disk; only WireGuard and systemd are stand-ins."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Network
from pathlib import Path
from uuid import UUID

import pytest

from builder.greeting import free_port
from home import unlock_keys
from home.control_client import ControlClient, Home
from home.control_errors import ControlFailure, Fenced, NotAccepted, Refused, Unreachable
from home.pair_push import push_unlock
from model.control import QueueSettings
from model.control_tls import Pins
from model.pairing import WIREGUARD_TURNS, AgentState, Confirm, Counter, Offer
from model.recipients import DomainRule, RecipientList
from model.unlock import UNFINISHED
from relay import pairing_file
from relay.agent import Agent
from relay.keeper import Folders, Keeper
from relay.link import rewrite, wireguard_keys
from relay.machine import Failure, System
from relay.pairing import DELAY, Kept, Keys
from relay.retire import retire
from relay.unlock import UnlockFolder
from tests.machine.machine import wait_for
from tests.unit.certificates import some_certificates
from tests.unit.unlock_samples import DISK, some_unlock_keys

_HOME = "a" * 32
_KEYS = [f"{number:042d}A=" for number in range(10)]
_CONF = f"""\
# wg-quick(8).
[Interface]
PrivateKey = {_KEYS[0]}
ListenPort = 51820
Address = 10.200.0.0/32, fd99::1/128
MTU = 1280

[Peer]
PublicKey = {_KEYS[2]}
AllowedIPs = 10.200.0.1/32, fd99::2/128
"""


_numbers = itertools.count(500)


class _Tunnel:
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


class _System(System):
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
    tunnel: _Tunnel = field(default_factory=_Tunnel)
    told: list[str] = field(default_factory=list)
    agent: Agent | None = None

    def start(self) -> None:
        self.stop()
        kept = pairing_file.read(self.folders.state)
        if kept is None:
            kept = Kept("b" * 32, Keys(_KEYS[0], _KEYS[1], "", _KEYS[2], "", "10.200.0.1", "10.200.0.0"))
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
        self.agent = Agent(keeper, self.folders, _System(), "127.0.0.1", self.port, unlock)
        self.agent.look()

    def wait(self, seconds: float) -> None:
        assert self.agent
        self.now += seconds
        self.agent.look()

    def stop(self) -> None:
        if self.agent:
            self.agent.stop()

    def client(self, pins: Pins | None, relay: str = "", epoch: int = 0) -> ControlClient:
        return ControlClient(("127.0.0.1", self.port), Home(_HOME, epoch, relay), pins)


@pytest.fixture
def relay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Relay]:
    monkeypatch.setattr(_Tunnel, "new_key", lambda _: (_KEYS[3], _KEYS[4]))
    made = Relay(Folders(tmp_path), free_port())
    for name in ("agent", "control", "config"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr("relay.agent_api.monotonic", lambda: made.now)
    made.start()
    yield made
    made.stop()


def _offer(number: int = 5, certificate: int = 0) -> Offer:
    import time

    return Offer(
        _HOME, 0, _KEYS[number], some_certificates()[certificate][1], "10.200.0.1", "10.200.0.0", int(time.time())
    )


def _pins(tmp_path: Path, counter: Counter, certificate: int = 0) -> Pins:
    path = tmp_path / f"home-{certificate}.pem"
    path.write_text(some_certificates()[certificate][0])
    return Pins(path, counter.certificate, server=False)


def _pair(relay: Relay, tmp_path: Path) -> tuple[Pins, Counter]:
    with relay.client(None) as client:
        counter = client.send("POST", "/exchange", _offer()).message(Counter)
    relay.wait(DELAY + 1)
    pins = _pins(tmp_path, counter)
    with relay.client(pins, counter.relay) as client:
        assert client.send("POST", "/confirm", Confirm(_KEYS[5])).message(Confirm).key == _KEYS[5]
    return pins, counter


def test_home_pairs_and_the_bootstrap_is_dead(relay: Relay, tmp_path: Path) -> None:
    pins, counter = _pair(relay, tmp_path)
    assert relay.tunnel.used[-1].home_key == _KEYS[5]
    assert relay.tunnel.settled[-1] == relay.tunnel.used[-1]
    assert "settled" in relay.told
    with relay.client(pins, counter.relay) as client:
        assert client.request("GET", "/state").message(AgentState).paired
    with relay.client(None) as client, pytest.raises(ControlFailure):
        client.send("POST", "/exchange", _offer(6, 1))
    folder = relay.folders.base
    assert json.loads((folder / "config/fence.json").read_text()) == {"home": _HOME, "home_epoch": 0}
    assert (folder / "control/home.pem").read_text() == some_certificates()[0][1]
    assert (folder / "control/relay.pem").stat().st_mode & 0o777 == 0o600
    assert (folder / "agent/pairing.json").stat().st_mode & 0o777 == 0o600
    assert not (folder / "agent/in-use.pem").exists()


def test_without_a_confirmation_the_relay_goes_back(relay: Relay) -> None:
    with relay.client(None) as client:
        counter = client.send("POST", "/exchange", _offer()).message(Counter)
        relay.wait(DELAY + 1)
        assert relay.tunnel.used[-1].home_key == _KEYS[5]
        with pytest.raises(Unreachable):
            client.send("POST", "/exchange", _offer())
    relay.wait(WIREGUARD_TURNS.relay + 1)
    assert relay.tunnel.used[-1].home_key == _KEYS[2]
    with relay.client(None) as client:
        assert client.send("POST", "/exchange", _offer()).message(Counter) == counter


def test_a_start_in_the_middle_begins_with_the_keys_that_hold(relay: Relay, tmp_path: Path) -> None:
    with relay.client(None) as client:
        client.send("POST", "/exchange", _offer())
    relay.wait(DELAY + 1)
    relay.start()
    assert relay.tunnel.used[-1].home_key == _KEYS[2]
    _pair(relay, tmp_path)
    relay.start()
    assert relay.tunnel.used[-1].home_key == _KEYS[5]


def test_only_home_changes_settings_and_recipients(relay: Relay, tmp_path: Path) -> None:
    with relay.client(None) as client:
        for path in ("/settings", "/recipients", "/bundle", "/fence"):
            with pytest.raises(Refused, match="not paired yet"):
                client.request("PUT", path, b"{}")
    pins, counter = _pair(relay, tmp_path)
    wanted = QueueSettings(3, "mx.example.com", ("example.com",), "queue", ("age1x",), 10**9)
    listed = RecipientList.make(4, {"example.com": DomainRule()}, ["alice@example.com"])
    with relay.client(pins, counter.relay) as client:
        state = client.send("PUT", "/settings", wanted).message(AgentState)
        assert (state.settings, state.recipients) == (3, 0)
        state = client.request("PUT", "/recipients", listed.text().encode()).message(AgentState)
        assert (state.settings, state.recipients) == (3, 4)
        with pytest.raises(Refused, match="relay has version 4"):
            client.request("PUT", "/recipients", RecipientList.make(3, listed.domains, []).text().encode())
        with pytest.raises(Refused, match="QueueSettings"):
            client.request("PUT", "/settings", b"{}")
        with pytest.raises(Refused, match="there is no PUT /other"):
            client.request("PUT", "/other")
    assert (relay.folders.config / "settings.json").read_bytes() == wanted.to_json()


def test_what_has_not_come_into_force_is_not_told_as_there(
    relay: Relay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Home brings it once more, and the relay does the rest: a unit failed, or the agent was killed in between."""
    pins, counter = _pair(relay, tmp_path)
    wanted = QueueSettings(3, "mx.example.com", ("example.com",), "queue", ("age1x",), 10**9)
    listed = RecipientList.make(4, {"example.com": DomainRule()}, ["alice@example.com"]).text().encode()
    done: list[str] = []

    def fail(_: object) -> None:
        raise Failure("postfix does not start")

    for name in ("_apply", "_reread"):
        monkeypatch.setattr(Agent, name, fail)
    relay.start()
    with relay.client(pins, counter.relay) as client:
        for path, content in (("/settings", wanted.to_json()), ("/recipients", listed)):
            with pytest.raises(Refused, match="has met a fault"):
                client.request("PUT", path, content)
        state = client.request("GET", "/state").message(AgentState)
        assert (state.settings, state.recipients) == (0, 0)
    for name in ("_apply", "_reread"):
        monkeypatch.setattr(Agent, name, lambda _, name=name: done.append(name))
    relay.start()
    with relay.client(pins, counter.relay) as client:
        client.request("PUT", "/settings", wanted.to_json())
        state = client.request("PUT", "/recipients", listed).message(AgentState)
        assert (state.settings, state.recipients) == (3, 4)
    assert done == ["_apply", "_reread"]
    relay.folders.given.write_text("damaged")
    with relay.client(pins, counter.relay) as client:
        assert client.request("GET", "/state").message(AgentState).settings == 0


def test_keys_rotate_and_the_former_certificate_holds_until_home_is_heard(relay: Relay, tmp_path: Path) -> None:
    pins, counter = _pair(relay, tmp_path)
    with relay.client(pins, counter.relay) as client:
        following = client.send("POST", "/rotate", _offer(7, 1)).message(Counter)
    relay.wait(DELAY + 1)
    with relay.client(pins, counter.relay) as client, pytest.raises((NotAccepted, ControlFailure)):
        client.request("GET", "/state")
    later = _pins(tmp_path, following, 1)
    with relay.client(later, counter.relay) as client:
        with pytest.raises(Refused, match="not confirmed"):
            client.request("GET", "/state")
        client.send("POST", "/confirm", Confirm(_KEYS[7]))
        both = (relay.folders.control / "home.pem").read_text()
        assert both == some_certificates()[1][1] + some_certificates()[0][1]
        client.request("GET", "/state")
        assert (relay.folders.control / "home.pem").read_text() == some_certificates()[1][1]


def test_a_later_home_fences_the_earlier_one(relay: Relay, tmp_path: Path) -> None:
    pins, counter = _pair(relay, tmp_path)
    with relay.client(pins, counter.relay, epoch=1) as client:
        assert client.request("PUT", "/fence").message(AgentState).home_epoch == 1
    assert json.loads((relay.folders.config / "fence.json").read_text())["home_epoch"] == 1
    with relay.client(pins, counter.relay) as client, pytest.raises(Fenced, match="epoch 1"):
        client.request("GET", "/state")


def test_refusals_are_in_the_relays_log(relay: Relay, capfd: pytest.CaptureFixture[str]) -> None:
    offer = _offer()
    with relay.client(None) as client:
        for bad in (
            Offer(offer.home, 0, offer.key, offer.certificate, "10.0.0.1", "10.0.0.2", offer.clock),
            Offer(offer.home, 0, offer.key, offer.certificate, "10.200.0.1", "10.200.0.0", 0),
        ):
            with pytest.raises(Refused):
                client.send("POST", "/exchange", bad)
        client.send("POST", "/exchange", offer)
        other = Offer("c" * 32, 0, _KEYS[8], offer.certificate, "10.200.0.1", "10.200.0.0", offer.clock)
        with pytest.raises(Refused, match="another home has claimed"):
            client.send("POST", "/exchange", other)
    written = capfd.readouterr().err
    for word in ("own network 10.0.0.0/16", "clocks of home and relay", "another home has claimed"):
        assert word in written


@pytest.mark.parametrize(
    "change",
    [
        {"home": "x"},
        {"key": "x"},
        {"certificate": some_certificates()[0][0]},
        {"certificate": ""},
        {"home4": "192.0.2.300"},
        {"home4": "8.8.8.8"},
        {"home4": 5},
        {"epoch": -1},
        {"epoch": "1"},
        {"clock": None},
    ],
)
def test_an_offer_that_is_none_is_refused(change: dict[str, object], relay: Relay) -> None:
    data = {**json.loads(_offer().to_json()), **change}
    with relay.client(None) as client, pytest.raises(Refused) as refused:
        client.request("POST", "/exchange", json.dumps(data).encode())
    assert refused.value.status == 400
    assert "PRIVATE" not in str(refused.value)


def test_the_file_of_the_tunnel_gets_other_keys_and_keeps_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relay.link.public_key", lambda _: _KEYS[1])
    before = wireguard_keys(_CONF)
    assert (before.own_key, before.home_key, before.home4) == (_KEYS[0], _KEYS[2], "10.200.0.1")
    after = rewrite(_CONF, Keys(_KEYS[7], _KEYS[8], "", _KEYS[9], "", "10.222.0.1", "10.222.0.0"))
    assert wireguard_keys(after).home_key == _KEYS[9]
    assert "Address = 10.222.0.0/32, fd99::1/128" in after
    assert not {_KEYS[0], _KEYS[2]} & set(after.split())
    assert [line for line in after.splitlines() if "=" not in line] == [
        line for line in _CONF.splitlines() if "=" not in line
    ]


def test_copies_of_the_user_data_are_removed(tmp_path: Path) -> None:
    folder = tmp_path / "var/lib/cloud/instances/i-1"
    folder.mkdir(parents=True)
    for name in ("user-data.txt", "user-data.txt.i", "cloud-config.txt", "vendor-data.txt", "obj.pkl"):
        (folder / name).write_text("key")
    assert retire(tmp_path) == 4
    assert [path.name for path in folder.iterdir()] == ["vendor-data.txt"]
    assert retire(tmp_path) == 0


@pytest.mark.skipif(not shutil.which("wg"), reason="wg(8) is not there; the tiers that need root install it")
def test_keys_are_made_by_wg() -> None:
    from relay.link import new_key, public_key

    private, public = new_key()
    assert public_key(private) == public != private


def test_a_listener_that_was_hung_up_frees_its_port(relay: Relay) -> None:
    before = threading.active_count()
    for _ in range(3):
        relay.start()
    wait_for(lambda: threading.active_count() <= before, "old listeners to end")


def test_home_gives_and_takes_the_keys_that_help_to_unlock(
    relay: Relay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pins, counter = _pair(relay, tmp_path)
    keys = some_unlock_keys()
    folder = tmp_path / "home"
    folder.mkdir()
    with relay.client(pins, counter.relay) as client:

        def known() -> str:
            return client.request("GET", "/state").message(AgentState).unlock

        assert push_unlock(client, folder, known(), DISK) == "" == known()
        unlock_keys.write(keys, folder)
        used = len(relay.tunnel.used)
        assert push_unlock(client, folder, known(), DISK) == keys.for_relay().digest == known()
        assert len(relay.tunnel.used) == used + 1, "the peer is let in"
        assert push_unlock(client, folder, known(), DISK) == known()
        assert len(relay.tunnel.used) == used + 1, "what it has is not brought again"
        for another in (UUID(int=8), None):
            assert push_unlock(client, folder, known(), another) == "" == known(), "of a disk that home has no more"
        assert push_unlock(client, folder, known(), DISK) == keys.for_relay().digest == known()
        with monkeypatch.context() as patch:
            patch.setattr("relay.agent.apply_settings", _fails)
            (folder / unlock_keys.FILE).unlink()
            with pytest.raises(ControlFailure):
                push_unlock(client, folder, known(), DISK)
    with relay.client(pins, counter.relay) as client:
        assert known() == UNFINISHED, "home comes again"
        assert push_unlock(client, folder, known(), DISK) == "" == known()
    assert UnlockFolder(tmp_path).read() is None
    with relay.client(None) as client, pytest.raises(ControlFailure):
        client.send("PUT", "/unlock", keys.for_relay())


def _fails(_: System) -> None:
    raise Failure("apt-get: no way to the archive")


def test_settings_that_come_again_meanwhile_wait_and_stay_readable(
    relay: Relay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Home asks again when a slow relay has not answered; the queue, which reads them meanwhile, has its right to."""
    group = os.getgid() if os.getuid() else 12345
    monkeypatch.setattr(_System, "user", lambda *_: group)
    monkeypatch.setattr("relay.agent.os.chown", lambda *_: None)  # what is given afterwards comes too late
    wanted = QueueSettings(3, "mx.example.com", ("example.com",), "queue", ("age1x",), 10**9)
    groups, most, now = set(), [], itertools.count()
    at_work = threading.Lock()

    def slow(system: System) -> None:
        del system
        most.append(at_work.acquire(blocking=False))
        for _ in range(20):
            groups.add((relay.folders.config / "settings.json").stat().st_gid)
            time.sleep(0.01)
        at_work.release()

    monkeypatch.setattr("relay.agent.apply_settings", slow)
    pins, counter = _pair(relay, tmp_path)

    def push() -> None:
        time.sleep(0.02 * next(now))
        with relay.client(pins, counter.relay) as client:
            client.send("PUT", "/settings", wanted)

    threads = [threading.Thread(target=push) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [True] * 3, "one after the other"
    assert groups == {group}
