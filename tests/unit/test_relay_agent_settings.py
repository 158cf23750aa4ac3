"""What home gives its relay and takes back: settings, recipients, and the keys that help to unlock."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest

from home import unlock_keys
from home.control_errors import ControlFailure, Refused
from home.pair_push import push_unlock
from model.control import QueueSettings
from model.pairing import AgentState
from model.recipients import DomainRule, RecipientList
from model.unlock import UNFINISHED
from relay import given
from relay.agent import Agent
from relay.machine import Failure, System
from relay.unlock import UnlockFolder
from tests.unit.agent_world import Relay, SystemStandIn, pair, relay_at_work
from tests.unit.unlock_samples import DISK, some_unlock_keys


@pytest.fixture
def relay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Relay]:
    with relay_at_work(tmp_path, monkeypatch) as made:
        yield made


def test_only_home_changes_settings_and_recipients(relay: Relay, tmp_path: Path) -> None:
    with relay.client(None) as client:
        for path in ("/settings", "/recipients", "/bundle", "/fence"):
            with pytest.raises(Refused, match="not paired yet"):
                client.request("PUT", path, b"{}")
    pins, counter = pair(relay, tmp_path)
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
    pins, counter = pair(relay, tmp_path)
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


@pytest.mark.parametrize("noted", [False, True])
@pytest.mark.parametrize("damaged", [b"", b"{}", b"\xff\0"])
def test_files_that_cannot_be_read_any_more_home_brings_again(
    relay: Relay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damaged: bytes, noted: bool
) -> None:
    """Damaged by the disk; or noted as in force by software that could read them."""
    monkeypatch.setattr("relay.agent.apply_settings", lambda _: None)
    pins, counter = pair(relay, tmp_path)
    wanted = QueueSettings(3, "mx.example.com", ("example.com",), "queue", ("age1x",), 10**9)
    listed = RecipientList.make(4, {"example.com": DomainRule()}, ["alice@example.com"]).text().encode()
    with relay.client(pins, counter.relay) as client:

        def push() -> tuple[int, int]:
            client.send("PUT", "/settings", wanted)
            state = client.request("PUT", "/recipients", listed).message(AgentState)
            return state.settings, state.recipients

        assert push() == (3, 4)
        for name in ("settings.json", "recipients.json"):
            (relay.folders.config / name).write_bytes(damaged)
            if noted:
                given.note(relay.folders.given, name, damaged)
        state = client.request("GET", "/state").message(AgentState)
        assert (state.settings, state.recipients) == (0, 0)
        assert push() == (3, 4)


def test_settings_that_come_again_meanwhile_wait_and_stay_readable(
    relay: Relay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Home asks again when a slow relay has not answered; the queue, which reads them meanwhile, has its right to."""
    group = os.getgid() if os.getuid() else 12345
    monkeypatch.setattr(SystemStandIn, "user", lambda *_: group)
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
    pins, counter = pair(relay, tmp_path)

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


def test_home_gives_and_takes_the_keys_that_help_to_unlock(
    relay: Relay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pins, counter = pair(relay, tmp_path)
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
            with pytest.raises(Refused, match="has met a fault"):
                push_unlock(client, folder, known(), DISK)
    with relay.client(pins, counter.relay) as client:
        assert known() == UNFINISHED, "home comes again"
        assert push_unlock(client, folder, known(), DISK) == "" == known()
    assert UnlockFolder(tmp_path).read() is None
    with relay.client(None) as client, pytest.raises(ControlFailure):
        client.send("PUT", "/unlock", keys.for_relay())


def _fails(_: System) -> None:
    raise Failure("apt-get: no way to the archive")
