"""darkpipe-pair with a real relay's agent: keys that change, relays that change, and what home tells of it."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any
from unittest.mock import Mock
from uuid import UUID

import pytest

from firstboot.data_place import Place, Record, keep_record
from home import bundle, pair_keeper, pair_push, pair_service
from home.bundle import Carried, Older
from home.control_errors import Unreachable
from home.pair_service import serve
from home.pair_state import REPLACEMENT, WISHES, Stage, Wish
from home.pairing import TRIES, Kept, Own, offer_of
from home.queue_keys import ensure_identity
from home.relay_half import DRAFT
from home.store import Store
from model.bundle import BundleState, BundleStatus
from model.pairing import WIREGUARD_TURNS, AgentState, Offer
from model.site import Relay as SiteRelay
from tests.unit.pairing_scene import ANSWERS, PairService, Scene, make_relay_anew, pairing_scene
from tests.unit.pairing_world import bootstrap_end
from tests.unit.stack_samples import accounts


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    with pairing_scene(tmp_path, monkeypatch) as made:
        yield made


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


def test_what_the_site_says_of_the_relay_is_brought_when_it_changes(scene: Scene) -> None:
    brought: list[SiteRelay] = []

    def push(_client: object, _folder: object, _keys: object, relay: SiteRelay, _accounts: object) -> AgentState:
        brought.append(relay)
        return AgentState(1, "0" * 64, paired=True, clock=0, settings=len(brought))

    scene.monkeypatch.setattr(pair_push, "push", push)
    scene.monkeypatch.setattr(pair_service, "read_accounts", lambda _: "accounts")
    scene.monkeypatch.setattr(bundle, "bring", lambda *_, **__: BundleStatus("1" * 64, "0.1.0", BundleState.INSTALLED))
    scene.monkeypatch.setattr(pair_push, "push_unlock", lambda *_: "")
    scene.monkeypatch.setattr(Carried, "of_image", lambda: None)
    scene.pair()
    assert scene.service
    site = scene.service._store.site
    site.parent.mkdir(parents=True, exist_ok=True)
    for rotation in ("90d", "60d"):
        site.write_text(_SITE.format(rotation))
        scene.wait(20)
        assert brought[-1].rotation == rotation
    scene.wait(100)
    assert len(brought) == 2


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

    scene.monkeypatch.setattr(bundle, "bring", bring)
    scene.monkeypatch.setattr(pair_service, "read_accounts", lambda _: "accounts")
    scene.monkeypatch.setattr(PairService, "_relay", lambda _: SiteRelay(address="mx.example.com"))
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
    scene.monkeypatch.setattr(bundle, "bring", lambda *_, **__: done)
    scene.monkeypatch.setattr(pair_service, "read_accounts", lambda _: "accounts")
    scene.monkeypatch.setattr(PairService, "_relay", lambda _: SiteRelay(address="mx.example.com"))
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
    scene.around = replace(ANSWERS, answers=False)
    make_relay_anew(scene)
    scene.wait(30)
    assert "does not answer at all" in scene.told[-1].trouble
    scene.wish(Wish.AGAIN)
    scene.wait(10)
    assert scene.is_at(Stage.REBUILT)
    assert scene.told[-1].trouble == ""


@pytest.mark.parametrize("anew", [True, False])
def test_how_far_a_relay_has_made_home_count_is_none_of_the_next_ones(scene: Scene, anew: bool) -> None:
    """One that has lied would have the next one told of numbers that are too high for its own answers."""
    scene.pair()
    folder, keys, most = scene.folder / "pairing", scene.folder / "queue-keys", 10**12
    keys.mkdir()
    ensure_identity(keys)
    relay = SiteRelay(address="mx.example.com")
    assert pair_push.wanted_settings(folder, keys, relay, accounts(), most).version > most
    assert pair_push.wanted_recipients(folder, accounts(), most).version > most
    if anew:
        make_relay_anew(scene)
        for _ in range(2):
            scene.wish(Wish.AGAIN)
            scene.wait(10)
    else:
        other = bootstrap_end().model_copy(update={"relay": "mx2.example.com"})
        (folder / WISHES / REPLACEMENT).write_text(other.model_dump_json())
        scene.wait(2)
    assert pair_push.wanted_settings(folder, keys, relay, accounts(), 0).version == 1
    assert pair_push.wanted_recipients(folder, accounts(), 0).version == 1


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
