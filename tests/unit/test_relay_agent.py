"""The relay's agent and home: keys are offered, confirmed, changed and refused, and the bootstrap ends."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from home.control_errors import ControlFailure, Fenced, Refused, Unreachable, WrongCertificate
from model.pairing import WIREGUARD_TURNS, AgentState, Confirm, Counter, Offer
from relay.link import rewrite, wireguard_keys
from relay.pairing import DELAY, Keys
from relay.retire import retire
from tests.machine.machine import wait_for
from tests.unit.agent_world import HOME, KEYS, Relay, make_offer, pair, pins_of, relay_at_work
from tests.unit.certificates import some_certificates


@pytest.fixture
def relay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Relay]:
    with relay_at_work(tmp_path, monkeypatch) as made:
        yield made


def test_home_pairs_and_the_bootstrap_is_dead(relay: Relay, tmp_path: Path) -> None:
    pins, counter = pair(relay, tmp_path)
    assert relay.tunnel.used[-1].home_key == KEYS[5]
    assert relay.tunnel.settled[-1] == relay.tunnel.used[-1]
    assert "settled" in relay.told
    with relay.client(pins, counter.relay) as client:
        assert client.request("GET", "/state").message(AgentState).paired
    with relay.client(None) as client, pytest.raises(ControlFailure):
        client.send("POST", "/exchange", make_offer(6, 1))
    folder = relay.folders.base
    assert json.loads((folder / "config/fence.json").read_text()) == {"home": HOME, "home_epoch": 0}
    assert (folder / "control/home.pem").read_text() == some_certificates()[0][1]
    assert (folder / "control/relay.pem").stat().st_mode & 0o777 == 0o600
    assert (folder / "agent/pairing.json").stat().st_mode & 0o777 == 0o600
    assert not (folder / "agent/in-use.pem").exists()


def test_without_a_confirmation_the_relay_goes_back(relay: Relay) -> None:
    with relay.client(None) as client:
        counter = client.send("POST", "/exchange", make_offer()).message(Counter)
        relay.wait(DELAY + 1)
        assert relay.tunnel.used[-1].home_key == KEYS[5]
        with pytest.raises(Unreachable):
            client.send("POST", "/exchange", make_offer())
    relay.wait(WIREGUARD_TURNS.relay + 1)
    assert relay.tunnel.used[-1].home_key == KEYS[2]
    with relay.client(None) as client:
        assert client.send("POST", "/exchange", make_offer()).message(Counter) == counter


def test_a_start_in_the_middle_begins_with_the_keys_that_hold(relay: Relay, tmp_path: Path) -> None:
    with relay.client(None) as client:
        client.send("POST", "/exchange", make_offer())
    relay.wait(DELAY + 1)
    relay.start()
    assert relay.tunnel.used[-1].home_key == KEYS[2]
    pair(relay, tmp_path)
    relay.start()
    assert relay.tunnel.used[-1].home_key == KEYS[5]


def test_keys_rotate_and_the_former_certificate_holds_until_home_is_heard(relay: Relay, tmp_path: Path) -> None:
    pins, counter = pair(relay, tmp_path)
    with relay.client(pins, counter.relay) as client:
        following = client.send("POST", "/rotate", make_offer(7, 1)).message(Counter)
    relay.wait(DELAY + 1)
    with relay.client(pins, counter.relay) as client, pytest.raises(WrongCertificate):
        client.request("GET", "/state")
    later = pins_of(tmp_path, following, 1)
    with relay.client(later, counter.relay) as client:
        with pytest.raises(Refused, match="not confirmed"):
            client.request("GET", "/state")
        client.send("POST", "/confirm", Confirm(KEYS[7]))
        both = (relay.folders.control / "home.pem").read_text()
        assert both == some_certificates()[1][1] + some_certificates()[0][1]
        client.request("GET", "/state")
        assert (relay.folders.control / "home.pem").read_text() == some_certificates()[1][1]


def test_a_later_home_fences_the_earlier_one(relay: Relay, tmp_path: Path) -> None:
    pins, counter = pair(relay, tmp_path)
    with relay.client(pins, counter.relay, epoch=1) as client:
        assert client.request("PUT", "/fence").message(AgentState).home_epoch == 1
    assert json.loads((relay.folders.config / "fence.json").read_text())["home_epoch"] == 1
    with relay.client(pins, counter.relay) as client, pytest.raises(Fenced, match="epoch 1"):
        client.request("GET", "/state")


def test_refusals_are_in_the_relays_log(relay: Relay, capfd: pytest.CaptureFixture[str]) -> None:
    offer = make_offer()
    with relay.client(None) as client:
        for bad in (
            Offer(offer.home, 0, offer.key, offer.certificate, "10.0.0.1", "10.0.0.2", offer.clock),
            Offer(offer.home, 0, offer.key, offer.certificate, "10.200.0.1", "10.200.0.0", 0),
        ):
            with pytest.raises(Refused):
                client.send("POST", "/exchange", bad)
        client.send("POST", "/exchange", offer)
        other = Offer("c" * 32, 0, KEYS[8], offer.certificate, "10.200.0.1", "10.200.0.0", offer.clock)
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
    data = {**json.loads(make_offer().to_json()), **change}
    with relay.client(None) as client, pytest.raises(Refused) as refused:
        client.request("POST", "/exchange", json.dumps(data).encode())
    assert refused.value.status == 400
    assert "PRIVATE" not in str(refused.value)


_CONF = f"""\
# wg-quick(8).
[Interface]
PrivateKey = {KEYS[0]}
ListenPort = 51820
Address = 10.200.0.0/32, fd99::1/128
MTU = 1280

[Peer]
PublicKey = {KEYS[2]}
AllowedIPs = 10.200.0.1/32, fd99::2/128
"""


def test_the_file_of_the_tunnel_gets_other_keys_and_keeps_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relay.link.public_key", lambda _: KEYS[1])
    before = wireguard_keys(_CONF)
    assert (before.own_key, before.home_key, before.home4) == (KEYS[0], KEYS[2], "10.200.0.1")
    after = rewrite(_CONF, Keys(KEYS[7], KEYS[8], "", KEYS[9], "", "10.222.0.1", "10.222.0.0"))
    assert wireguard_keys(after).home_key == KEYS[9]
    assert "Address = 10.222.0.0/32, fd99::1/128" in after
    assert not {KEYS[0], KEYS[2]} & set(after.split())
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
