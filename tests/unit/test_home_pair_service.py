"""darkpipe-pair with a real relay's agent: whatever is refused is told in words at home, and in the relay's log."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any
from unittest.mock import Mock
from uuid import UUID

import pytest

from builder.greeting import free_port
from firstboot.data_place import Place, Record, keep_record
from home import control_client, pair_keeper, pair_push, pair_service
from home.bundle import Carried, Older
from home.control_client import ControlClient
from home.control_errors import Unreachable
from home.pair_commands import in_words
from home.pair_diagnosis import Around
from home.pair_service import Service, read_document, serve
from home.pair_state import REPLACEMENT, WISHES, Stage, Told, Wish
from home.pairing import TRIES, Kept, Own, offer_of
from home.relay_half import DRAFT
from home.store import Store
from model.bundle import BundleState, BundleStatus
from model.pairing import WIREGUARD_TURNS, AgentState, Counter, Offer
from model.site import Relay as SiteRelay
from model.tunnel import HomeEnd
from relay import pairing_file
from relay.keeper import Folders
from relay.pairing import LAPSE, Heard, Keys
from relay.pairing import Kept as RelayKept
from tests.unit.certificates import some_certificates
from tests.unit.pairing_world import bootstrap_keys, make_own
from tests.unit.test_relay_agent import Relay

_ANSWERS = Around("mx.example.com", ("192.0.2.1",), answers=True)
"""A relay that is there, and whose WireGuard is silent."""


class _Service(Service):
    """Pairing at work, whose tunnel is up when both ends have keys that belong together."""

    scene: Scene

    def _is_up(self) -> bool:
        scene, keys = self.scene, self._keeper.keys
        if scene.away:
            return False
        assert scene.relay.agent
        state = scene.relay.agent._keeper.state
        used = state.kept.base if scene.stays else state.in_use
        own = keys.own.public if keys else scene.home_public
        return (own, self._keeper.end.relay_key) == (used.home_key, used.own_public)


@dataclass
class Scene:
    """A home and a relay that have one bootstrap.

    Args:
        home_public: home's public key in the bootstrap.
        around: what home sees when the tunnel is down.
        away: whether the relay is.
        stays: whether the relay's tunnel never takes other keys.
    """

    folder: Path
    relay: Relay
    monkeypatch: pytest.MonkeyPatch
    home_public: str = field(default_factory=lambda: bootstrap_keys(mtls=False)[1])
    around: Around = _ANSWERS
    now: float = 1000.0
    away: bool = False
    stays: bool = False
    told: list[Told] = field(default_factory=list)
    service: Service | None = None

    def start(self, home4: str = "10.200.0.1", relay4: str = "10.200.0.0") -> None:
        own, _, _, relay_public = bootstrap_keys(mtls=False)
        addresses = {"home4": home4, "relay4": relay4, "home6": "fd99::2", "relay6": "fd99::1"}
        end = {"private_key": own, "relay_key": relay_public, "relay": "mx.example.com", "addresses": addresses}
        store = Store(self.folder / "data")
        store.tunnel.parent.mkdir(parents=True)
        store.tunnel.write_text(HomeEnd.model_validate(end).model_dump_json())
        folder = self.folder / "pairing"
        (folder / WISHES).mkdir(parents=True)
        document = read_document(folder, store)
        assert document
        service = _Service(document, store, folder, lambda: self.now, self.folder)
        service.scene = self
        service.start()
        self.service = service

    def wait(self, seconds: int) -> None:
        assert self.service
        for _ in range(seconds):
            self.now += 1
            self.relay.wait(1)
            self.service.step()

    def wish(self, wish: Wish) -> None:
        (self.folder / "pairing" / WISHES / wish).touch()

    def pair(self) -> None:
        self.start()
        self.wait(15)
        assert self.is_at(Stage.PAIRED)

    def is_at(self, stage: Stage) -> bool:
        return self.told[-1].stage is stage

    @property
    def words(self) -> str:
        """All that `darkpipe pair` has shown."""
        return " ".join(line for told in self.told for line in in_words(told))


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    folders = Folders(tmp_path / "relay")
    for name in ("agent", "control", "config"):
        (folders.base / name).mkdir(parents=True)
    _, home_public, own, public = bootstrap_keys(mtls=False)
    kept = RelayKept("b" * 32, Keys(own, public, "", home_public, "", "10.200.0.1", "10.200.0.0"))
    pairing_file.write(folders.state, kept)
    relay = Relay(folders, free_port())
    monkeypatch.setattr("relay.agent_api.monotonic", lambda: relay.now)
    relay.start()
    made = Scene(tmp_path, relay, monkeypatch)
    stand_ins = {
        "has_none": lambda _: False,
        "home_networks": list,
        "look_around": lambda *_, paired, mtls: replace(made.around, paired=paired, mtls=mtls),
        "read_tunnel": lambda: None,
        "tell": made.told.append,
        "_restart": lambda: None,
    }
    for name, stand_in in stand_ins.items():
        monkeypatch.setattr(pair_service, name, stand_in)
    monkeypatch.setattr(pair_keeper, "home_networks", list)
    monkeypatch.setattr(pair_keeper, "make_own", lambda _, pair, mtls: make_own(*pair))
    monkeypatch.setattr(
        pair_keeper, "ControlClient", lambda place, us, pins: ControlClient(("127.0.0.1", place[1]), us, pins)
    )
    # The port is the agent's own elsewhere; here it is one that is free.
    monkeypatch.setattr(pair_service, "Keeper", partial(pair_keeper.Keeper, port=relay.port))
    yield made
    relay.stop()


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
    _make_relay_anew(scene)
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


def _make_relay_anew(scene: Scene) -> None:
    """Put a relay there as the user-data make it."""
    scene.relay.stop()
    _, home_public, own, public = bootstrap_keys(mtls=False)
    fresh = RelayKept("d" * 32, Keys(own, public, "", home_public, "", "10.200.0.1", "10.200.0.0"))
    pairing_file.write(scene.relay.folders.state, fresh)
    scene.relay.start()


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
    _make_relay_anew(scene)
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


def test_what_cannot_be_granted_is_said(scene: Scene) -> None:
    scene.home_public = ""
    scene.start()
    for wish in (Wish.AGAIN, Wish.ROTATE):
        scene.wish(wish)
        scene.wait(2)
        assert scene.told[-1].wish.startswith(f"{wish}: home is not paired yet")


def test_a_change_of_keys_that_is_due_and_refused_is_told_and_tried_an_hour_later(scene: Scene) -> None:
    scene.pair()
    offers: list[int] = []

    def apart(kept: Kept, own: Own, clock: int) -> Offer:
        offers.append(int(scene.now))
        return offer_of(kept, own, clock + 9000)

    assert scene.service
    keeper = scene.service._keeper
    keeper.state = replace(keeper.state, kept=replace(keeper.state.kept, changed=1))
    scene.monkeypatch.setattr(pair_keeper, "offer_of", apart)
    scene.wait(300)
    assert len(offers) == 1
    assert scene.is_at(Stage.PAIRED)
    assert "the clocks of home and relay are" in scene.told[-1].trouble
    scene.monkeypatch.setattr(pair_keeper, "offer_of", offer_of)
    scene.now += 3600
    scene.wait(60)
    assert scene.is_at(Stage.PAIRED)
    assert scene.told[-1].changed > 1
    assert scene.told[-1].trouble == ""


_SITE = """\
version: 1
domains: [example.com]
users: [{{address: alice@example.com}}]
disk: {{unlock: none}}
relays: [{{address: mx.example.com, offline: tempfail, rotation: {}}}]
"""
_DAY = 24 * 3600


@pytest.mark.parametrize(
    ("rotation", "days", "due"),
    [
        ("30d", 29, False),
        ("30d", 31, True),
        ("60d", 31, False),
        ("60d", 61, True),
        ("90d", 61, False),
        ("90d", 91, True),
        # They were made while home's clock and the relay's were in the future.
        ("30d", -3000, True),
        ("90d", -1, False),
    ],
)
def test_keys_change_after_the_days_that_the_site_says(scene: Scene, rotation: str, days: int, due: bool) -> None:
    scene.pair()
    assert scene.service
    site = scene.service._store.site
    site.parent.mkdir(parents=True, exist_ok=True)
    site.write_text(_SITE.format(rotation))
    keeper = scene.service._keeper
    before, changed = keeper.keys, int(time.time()) - days * _DAY
    keeper.state = replace(keeper.state, kept=replace(keeper.state.kept, changed=changed))
    scene.wait(40)
    assert scene.is_at(Stage.PAIRED)
    assert (keeper.keys != before) is due
    assert (keeper.state.kept.changed == changed) is not due


def test_a_change_to_which_the_relay_never_comes_is_told_and_tried_a_day_later(scene: Scene) -> None:
    scene.pair()
    assert scene.service
    keeper = scene.service._keeper
    before = keeper.keys
    scene.stays = True
    scene.wish(Wish.ROTATE)
    scene.wait(int(TRIES * WIREGUARD_TURNS.home) + 30)
    assert scene.is_at(Stage.PAIRED)
    assert "Both go on with the keys that they have" in scene.told[-1].trouble
    assert keeper.keys == before
    scene.stays = False
    scene.now += 20 * 3600
    scene.wait(60)
    assert keeper.keys == before, "it rests"
    assert "tries again a day later" in scene.told[-1].trouble
    scene.now += 4 * 3600
    scene.wait(60)
    assert scene.is_at(Stage.PAIRED)
    assert keeper.keys != before
    assert scene.told[-1].trouble == ""


def test_keys_that_are_due_while_the_relay_is_away_change_when_it_is_back(scene: Scene) -> None:
    scene.pair()
    assert scene.service
    keeper = scene.service._keeper
    before = keeper.keys
    keeper.state = replace(keeper.state, kept=replace(keeper.state.kept, changed=1))
    scene.away = True
    scene.wait(100)
    assert scene.is_at(Stage.SILENT)
    assert keeper.state.kept.own is None
    scene.away = False
    scene.wait(60)
    assert scene.is_at(Stage.PAIRED)
    assert keeper.keys != before


def test_what_the_relay_refuses_is_not_brought_again_at_once(scene: Scene) -> None:
    answers: list[Exception] = [Older("older"), Unreachable("nobody answers"), Older("older")]
    asked: list[float] = []

    def bring(*_: object, **__: object) -> BundleStatus:
        asked.append(scene.now)
        if answers:
            raise answers.pop(0)
        return BundleStatus("1" * 64, "0.1.0", BundleState.INSTALLED)

    scene.monkeypatch.setattr(pair_service, "bring", bring)
    scene.monkeypatch.setattr(pair_service, "read_accounts", lambda _: "accounts")
    scene.monkeypatch.setattr(_Service, "_relay", lambda _: SiteRelay(address="mx.example.com"))
    scene.monkeypatch.setattr(Carried, "of_image", lambda: None)
    scene.monkeypatch.setattr(pair_push, "push", lambda *_: AgentState(1, "0" * 64, paired=True, clock=0, settings=1))
    scene.pair()
    scene.wait(500)
    waits = [after - before for before, after in itertools.pairwise(asked)]
    assert [wait >= 60 for wait in waits] == [True, False, True, True]
    assert scene.told[-1].software == "1" * 64


def test_the_relay_is_told_of_the_disk_that_home_has(scene: Scene) -> None:
    """A backup of another one brings keys with it, by which a stolen disk would open."""
    asked: list[UUID | None] = []

    def push_unlock(*given: Any) -> str:
        asked.append(given[-1])
        return ""

    done = BundleStatus("1" * 64, "0.1.0", BundleState.INSTALLED)
    scene.monkeypatch.setattr(pair_service, "bring", lambda *_, **__: done)
    scene.monkeypatch.setattr(pair_service, "read_accounts", lambda _: "accounts")
    scene.monkeypatch.setattr(_Service, "_relay", lambda _: SiteRelay(address="mx.example.com"))
    scene.monkeypatch.setattr(Carried, "of_image", lambda: None)
    scene.monkeypatch.setattr(pair_push, "push", lambda *_: AgentState(1, "0" * 64, paired=True, clock=0, settings=1))
    scene.monkeypatch.setattr(pair_push, "push_unlock", push_unlock)
    scene.pair()
    scene.wait(20)
    keep_record(scene.folder, Record(place=Place.SYSTEM, uuid=UUID(int=7), encrypted=True))
    scene.wait(20)
    assert asked == [None, UUID(int=7)]


def test_a_relay_that_was_built_anew_is_not_told_as_one_that_does_not_answer(scene: Scene) -> None:
    scene.pair()
    scene.around = replace(_ANSWERS, answers=False)
    _make_relay_anew(scene)
    scene.wait(30)
    assert "does not answer at all" in scene.told[-1].trouble
    scene.wish(Wish.AGAIN)
    scene.wait(10)
    assert scene.is_at(Stage.REBUILT)
    assert scene.told[-1].trouble == ""


def test_a_network_at_home_that_comes_to_the_tunnels_addresses_moves_them(scene: Scene) -> None:
    scene.pair()
    lan = IPv4Network("10.200.0.0/16")
    for module in (pair_service, pair_keeper):
        scene.monkeypatch.setattr(module, "home_networks", lambda: [lan])
    scene.wait(60)
    assert scene.is_at(Stage.PAIRED)
    assert scene.relay.agent
    used = scene.relay.agent._keeper.state.in_use
    assert not any(IPv4Address(address) in lan for address in (used.home4, used.relay4))


def test_the_relays_half_goes_once_home_and_relay_are_paired(scene: Scene) -> None:
    scene.start()
    home = json.loads((scene.folder / "data/darkpipe/relay.json").read_text())
    draft = scene.folder / "pairing" / DRAFT
    draft.write_text(json.dumps({"bootstrap": {"home": home, "relay": {}}}))
    scene.wait(2)
    assert draft.exists(), "it is what makes the relay"
    scene.wait(15)
    assert scene.is_at(Stage.PAIRED)
    assert not draft.exists()


def test_a_damaged_file_of_another_relays_keys_is_told_and_ends_nothing(scene: Scene) -> None:
    scene.pair()
    path = scene.folder / "pairing" / WISHES / REPLACEMENT
    path.write_text('{"version": 1, "private_key": "secret"}')
    scene.wait(5)
    assert not path.exists()
    assert scene.is_at(Stage.PAIRED)
    assert "cannot be read" in scene.told[-1].wish
    assert "secret" not in scene.told[-1].wish


def test_a_device_without_a_relay_takes_the_keys_that_it_is_given(
    scene: Scene, capsys: pytest.CaptureFixture[str]
) -> None:
    store, folder = Store(scene.folder / "new"), scene.folder / "nobody"
    store.tunnel.parent.mkdir(parents=True)
    stopped, turns = threading.Event(), iter([False, False, True])
    scene.monkeypatch.setattr(stopped, "wait", lambda _: None)
    scene.monkeypatch.setattr(stopped, "is_set", lambda: next(turns))
    service = Mock()
    scene.monkeypatch.setattr(pair_service, "Service", service)
    path = folder / WISHES / REPLACEMENT
    path.parent.mkdir(parents=True)
    path.write_text('{"version": 1, "private_key": "secret"}')
    serve(stopped, folder, store)
    assert (service.called, path.exists(), store.tunnel.exists()) == (False, False, False)
    assert "give it once more" in capsys.readouterr().out
    scene.start()
    given = (scene.folder / "data/darkpipe/relay.json").read_text()
    path.write_text(given)
    turns = iter([False, False, True])
    serve(stopped, folder, store)
    assert service.call_args.args[0].bootstrap.relay == "mx.example.com"
    assert (path.exists(), json.loads(store.tunnel.read_text())) == (False, json.loads(given))
    assert store.tunnel.stat().st_mode & 0o777 == 0o600


def test_a_restored_home_whose_clock_is_wrong_changes_its_keys_when_it_is_right(scene: Scene) -> None:
    """The one that was lost has the same keys until then."""
    scene.pair()
    assert scene.service
    before = scene.service._keeper.keys
    scene.monkeypatch.setattr(pair_keeper, "offer_of", lambda kept, own, clock: offer_of(kept, own, clock + 9000))
    scene.wish(Wish.RESTORED)
    scene.wait(100)
    assert scene.told[-1].home_epoch == 1
    assert "the clocks of home and relay are" in scene.told[-1].trouble
    assert scene.service._keeper.keys == before
    scene.monkeypatch.setattr(pair_keeper, "offer_of", offer_of)
    scene.now += 3600
    scene.wait(60)
    assert scene.is_at(Stage.PAIRED)
    assert scene.service._keeper.keys != before
    assert scene.told[-1].trouble == ""
