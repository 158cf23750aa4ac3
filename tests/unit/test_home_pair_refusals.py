"""darkpipe-pair with a real relay's agent: whatever is refused is told in words at home, and in the relay's log."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from home import control_client, pair_keeper
from home.pair_diagnosis import Around
from home.pair_state import Stage, Wish
from home.pairing import offer_of
from model.pairing import WIREGUARD_TURNS, Counter, Offer
from relay import pairing_file
from relay.pairing import LAPSE, Heard
from tests.unit.certificates import some_certificates
from tests.unit.pairing_scene import Scene, make_relay_anew, pairing_scene


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    with pairing_scene(tmp_path, monkeypatch) as made:
        yield made


def _second_claimant(scene: Scene) -> None:
    certificate = some_certificates()[0][1]
    offer = Offer("c" * 32, 0, f"{9:042d}E=", certificate, "10.200.0.1", "10.200.0.0", int(time.time()))
    with scene.relay.client(None) as client:
        client.send("POST", "/exchange", offer).message(Counter)
    scene.start()
    scene.wait(int(WIREGUARD_TURNS.relay) + 10)


def _old_user_data(scene: Scene) -> None:
    scene.home_public = f"{8:042d}E="
    scene.start()
    scene.wait(20)


def _replayed_user_data(scene: Scene) -> None:
    scene.pair()
    make_relay_anew(scene)
    scene.wait(5)
    scene.wish(Wish.AGAIN)
    scene.wait(5)


def _other_protocol(scene: Scene) -> None:
    scene.monkeypatch.setattr(control_client, "PROTOCOL", 9)
    scene.start()
    scene.wait(5)


def _changed_relay_key(scene: Scene) -> None:
    scene.pair()
    kept = pairing_file.read(scene.relay.folders.state)
    assert kept
    other = next(pem for pem, _ in some_certificates() if pem != kept.base.own_pem)
    scene.relay.stop()
    pairing_file.write(scene.relay.folders.state, replace(kept, base=replace(kept.base, own_pem=other)))
    scene.relay.start()
    scene.wish(Wish.ROTATE)
    scene.wait(5)


def _clocks_apart(scene: Scene) -> None:
    scene.monkeypatch.setattr(pair_keeper, "offer_of", lambda kept, own, clock: offer_of(kept, own, clock + 9000))
    scene.start()
    scene.wait(5)


def _address_clash(scene: Scene) -> None:
    scene.start("10.0.3.1", "10.0.3.0")
    scene.wait(15)
    assert scene.is_at(Stage.PAIRED)  # with others


def _fenced(scene: Scene) -> None:
    scene.pair()
    assert scene.relay.agent
    scene.relay.agent._keeper.happen(Heard(3))
    scene.wish(Wish.ROTATE)
    scene.wait(5)


def _ipv6_only(scene: Scene) -> None:
    scene.home_public = ""
    scene.around = Around("mx.example.com", ("2001:db8::1",), ipv6=False)
    scene.start()
    scene.wait(20)


def _udp_blocked(scene: Scene) -> None:
    scene.home_public = ""
    scene.start()
    scene.wait(20)


_NOT_SEEN = ""
"""WireGuard drops it, if it ever leaves home; of what is dropped, relay.callers tells."""

_REFUSALS: dict[Callable[[Scene], None], tuple[str, str]] = {
    _second_claimant: ("another home has claimed this relay", "refused home: another home has claimed this relay"),
    _old_user_data: ("from other or older user-data", _NOT_SEEN),
    _replayed_user_data: ("a relay answers that was built anew from the same user-data", _NOT_SEEN),
    _other_protocol: ("the relay speaks version", "refused a request of home: home speaks version 9 of the protocol"),
    _changed_relay_key: ("This is not the relay that home was paired with", "refused somebody in the tunnel"),
    _clocks_apart: ("the clocks of home and relay are", "refused home: the clocks of home and relay are"),
    _address_clash: ("are in the relay's own network 10.0.0.0/16", "refused home: the addresses 10.0.3.1 and 10.0.3.0"),
    _fenced: ("another device that was restored from its backup", "refused a request of home: this home has epoch 0"),
    _ipv6_only: ("has IPv6 addresses only, and home has no IPv6", _NOT_SEEN),
    _udp_blocked: ("blocks UDP port 51820", _NOT_SEEN),
}
"""What refuses, with the words at home (`darkpipe pair`, or the log for what home mends itself), and at the relay."""


@pytest.mark.parametrize("refusal", _REFUSALS, ids=lambda refusal: refusal.__name__.strip("_"))
def test_what_is_refused_is_told_on_both_sides(
    scene: Scene, refusal: Callable[[Scene], None], capsys: pytest.CaptureFixture[str]
) -> None:
    at_home, at_the_relay = _REFUSALS[refusal]
    refusal(scene)
    scene.relay.stop()  # what it has to say about its last connections, it has said then
    logs = capsys.readouterr()
    assert at_home in scene.words or at_home in logs.out
    assert at_the_relay in logs.err
    assert ("refused" in logs.err) is bool(at_the_relay)
    assert "Traceback" not in logs.err + logs.out


def test_a_refused_home_pairs_when_the_other_one_has_gone(scene: Scene) -> None:
    _second_claimant(scene)
    scene.wait(int(LAPSE) + 100)
    assert scene.is_at(Stage.PAIRED)
    assert scene.told[-1].trouble == ""


def test_a_relay_built_anew_is_claimed_by_the_second_consent_only(scene: Scene) -> None:
    scene.pair()
    scene.wish(Wish.AGAIN)
    scene.wait(2)
    assert "was not built anew" in scene.told[-1].wish
    make_relay_anew(scene)
    scene.wait(5)
    assert scene.is_at(Stage.SILENT)
    scene.wish(Wish.AGAIN)
    scene.wait(5)
    assert "home looks" in scene.told[-1].wish
    scene.wait(100)
    assert scene.is_at(Stage.REBUILT)
    assert scene.relay.agent
    assert scene.relay.agent._keeper.state.kept.home == ""
    scene.wish(Wish.AGAIN)
    scene.wait(15)
    assert scene.is_at(Stage.PAIRED)
    assert scene.told[-1].relay_id == "d" * 32
