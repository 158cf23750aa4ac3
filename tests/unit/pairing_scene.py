"""A home and a relay with one bootstrap, and what home sees between them: darkpipe-pair with a real relay's agent."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import pytest

from home import pair_keeper, pair_service
from home.control_client import ControlClient
from home.pair_commands import in_words
from home.pair_diagnosis import Around
from home.pair_service import Service, read_document
from home.pair_state import WISHES, Stage, Told, Wish
from home.store import Store
from relay import pairing_file
from tests.unit.agent_world import Relay, relay_at_work
from tests.unit.pairing_world import bootstrap_end, bootstrap_keys, fresh_relay, make_own

ANSWERS = Around("mx.example.com", ("192.0.2.1",), answers=True)
"""A relay that is there, and whose WireGuard is silent."""


class PairService(Service):
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
    around: Around = ANSWERS
    now: float = 1000.0
    away: bool = False
    stays: bool = False
    told: list[Told] = field(default_factory=list)
    service: Service | None = None

    def start(self, home4: str = "10.200.0.1", relay4: str = "10.200.0.0") -> None:
        store = Store(self.folder / "data")
        store.tunnel.parent.mkdir(parents=True)
        store.tunnel.write_text(bootstrap_end(home4, relay4).model_dump_json())
        folder = self.folder / "pairing"
        (folder / WISHES).mkdir(parents=True)
        document = read_document(folder, store)
        assert document
        service = PairService(document, store, folder, lambda: self.now, self.folder)
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


@contextmanager
def pairing_scene(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    """Make a scene, whose relay is at work while the context is open."""
    with relay_at_work(folder / "relay", monkeypatch, fresh_relay()) as relay:
        made = Scene(folder, relay, monkeypatch)
        _put_stand_ins(made)
        yield made


def _put_stand_ins(made: Scene) -> None:
    """Let home look at the scene instead of its system."""
    monkeypatch, relay = made.monkeypatch, made.relay
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


def make_relay_anew(scene: Scene) -> None:
    """Put a relay there as the user-data make it."""
    scene.relay.stop()
    pairing_file.write(scene.relay.folders.state, fresh_relay("d" * 32))
    scene.relay.start()
