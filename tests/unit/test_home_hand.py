"""darkpipe-hand: what it does for the desk, and for nobody else."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from home import hand
from home.hand import DESK, Hand, unit_of
from home.preflight_job import boot_id, read_preflight
from home.relay_draft import read_draft
from home.seen import PREFLIGHT
from home.store import Store, write_accounts
from model.accounts import Accounts
from model.document import dump_site
from tests.unit.stack_samples import accounts, site

_SECRET = "correct horse battery"


class Changes:
    """The accounts, changed as home.command.change does, with no service behind them."""

    def __init__(self) -> None:
        self.accounts = accounts()
        self.ended: list[str] = []

    def __call__(self, wish: Callable[[Accounts], Accounts], *, end_sessions_of: str = "") -> Accounts:
        self.accounts = wish(self.accounts)
        self.ended += [end_sessions_of] if end_sessions_of else []
        return self.accounts


@pytest.fixture
def device(tmp_path: Path) -> Hand:
    """A hand on a device whose site names a relay."""
    store = Store(tmp_path / "data")
    for name in ("darkpipe", "pairing", "setup"):
        (store.data / name).mkdir(parents=True)
    write_accounts(store.accounts, accounts())
    store.site.write_text(
        dump_site(site()).replace("relays: []", "relays: [{address: mx.example.com, offline: tempfail}]")
    )
    started: list[str] = []
    return Hand(store, store.data / "pairing", Changes(), started.append, lambda wish: f"{wish} is granted")


def test_a_relay_is_begun_on_a_device_without_one(device: Hand) -> None:
    asked = {"do": "begin-relay", "offline": "queue", "transport": "wireguard"}
    assert "a relay in this device's site" in str(device.answer(asked)["refused"])
    device.store.site.write_text(dump_site(site()))
    assert device.answer({**asked, "offline": "perhaps"}) == {"refused": "this is no question"}
    assert device.answer({"do": "show-relay"})["relay"]["origin"] == "nowhere"
    assert device.answer(asked) == {}
    assert device.answer({"do": "show-relay"})["relay"]["origin"] == "to make"
    assert device.answer(asked) == {}, "a button was pressed twice"
    assert "a relay in this device's site" in str(device.answer({**asked, "transport": "mtls"})["refused"])


def test_a_user_is_added_and_has_the_password(device: Hand) -> None:
    changes = device.change
    assert isinstance(changes, Changes)
    before = len(changes.accounts.users)
    assert device.answer({"do": "add-user", "address": "Carol@Example.com", "password": _SECRET}) == {}
    added = changes.accounts.user("carol@example.com")
    assert ((added and added.password_hash) or "").startswith("$argon2id$")
    assert len(changes.accounts.users) == before + 1
    assert changes.ended == []
    known = changes.accounts
    assert device.answer({"do": "add-user", "address": "carol@example.com", "password": _SECRET}) == {}
    assert changes.accounts == known, "a button was pressed twice"
    other = device.answer({"do": "add-user", "address": "carol@example.com", "password": f"{_SECRET}!"})
    assert "which is a user already" in other["refused"]


def test_another_password_ends_the_users_sessions(device: Hand) -> None:
    changes = device.change
    assert isinstance(changes, Changes)
    before = changes.accounts.users[0]
    assert device.answer({"do": "set-password", "address": before.address, "password": _SECRET}) == {}
    assert changes.accounts.users[0].password_hash != before.password_hash
    assert changes.ended == [before.address]


def test_mail_of_an_earlier_user_is_not_given_away(device: Hand) -> None:
    device.store.mailbox("carol@example.com").mkdir(parents=True)
    answer = device.answer({"do": "add-user", "address": "carol@example.com", "password": _SECRET})
    assert "mail of an earlier user" in answer["refused"]
    assert isinstance(device.change, Changes)
    assert device.change.accounts == accounts()


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"do": "add-user", "address": "carol@example.com", "password": "short"}, "at least 10 characters"),
        ({"do": "add-user", "address": "carol@elsewhere.example", "password": _SECRET}, "elsewhere.example"),
        ({"do": "set-password", "address": "nobody@example.com", "password": _SECRET}, "nobody@example.com"),
        ({"do": "point-relay", "address": "not an address"}, "not an address"),
        ({"do": "make-relay", "ssh_key": "no key"}, "SSH key"),
        ({"do": "remove-user", "address": "alice@example.com"}, "this is no question"),
        ({"do": "add-user", "address": "carol@example.com"}, "this is no question"),
        ({"do": "preflight", "unit": "ssh.service"}, "this is no question"),
        ({}, "this is no question"),
    ],
)
def test_what_cannot_be_done_is_told_and_changes_nothing(device: Hand, asked: Mapping[str, Any], told: str) -> None:
    before = sorted(device.store.data.rglob("*"))
    answer = device.answer(asked)
    assert told in answer["refused"]
    assert _SECRET not in answer["refused"]
    assert [path for path in sorted(device.store.data.rglob("*")) if path.name != ".lock"] == before
    assert isinstance(device.change, Changes)
    assert device.change.accounts == accounts()


def test_the_preflight_is_a_unit_of_its_own(device: Hand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DARKPIPE_BOOT", "b")
    assert device.answer({"do": "preflight"}) == {}
    assert getattr(device.start, "__self__", None) == ["darkpipe-preflight.service"]
    path = device.store.data / PREFLIGHT
    begun = read_preflight(path)
    assert begun
    assert begun.runs(boot_id(), time.monotonic()), "whoever has asked sees it at once"
    device.answer({"do": "preflight"})
    assert read_preflight(path) == begun, "and a second press changes nothing"

    def refuse(unit: str) -> None:
        raise hand.HandError(f"{unit} cannot be started: no bus")

    assert "no bus" in replace(device, start=refuse).answer({"do": "preflight"})["refused"]
    failed = read_preflight(path)
    assert failed
    assert "no bus" in failed.error
    assert not failed.passed
    monkeypatch.setattr("subprocess.run", lambda *_, **__: type("Done", (), {"returncode": 1, "stderr": "no bus\n"}))
    with pytest.raises(hand.HandError, match=r"darkpipe-preflight\.service cannot be started: no bus"):
        hand.start_unit("darkpipe-preflight.service")


def test_a_relay_built_anew_is_claimed_by_a_wish(device: Hand) -> None:
    assert device.answer({"do": "claim-relay"}) == {"said": "again is granted"}


def test_user_data_are_made_and_shown(device: Hand) -> None:
    assert device.answer({"do": "show-relay"})["relay"]["origin"] == "to make"
    assert device.answer({"do": "make-relay"}) == {}
    shown = device.answer({"do": "show-relay"})["relay"]
    draft = read_draft(device.folder)
    assert draft
    assert draft.bootstrap.relay.private_key in shown["text"]
    assert draft.bootstrap.home.private_key not in shown["text"]


def test_no_message_no_fate(device: Hand) -> None:
    assert device.answer({"do": "show-test"}) == {"message": None}


def _asked(line: bytes, monkeypatch: pytest.MonkeyPatch, unit: str = DESK) -> tuple[dict[str, Any], list[Any]]:
    heard: list[Any] = []
    monkeypatch.setattr(hand, "unit_of", lambda _: unit)

    def answer(question: Mapping[str, Any]) -> Mapping[str, Any]:
        heard.append(question)
        return {"done": True}

    ours, theirs = socket.socketpair()
    with ours, theirs:
        thread = threading.Thread(target=hand.serve, args=(theirs, answer))
        thread.start()
        ours.sendall(line)
        said: dict[str, Any] = json.loads(ours.makefile("rb").readline())
        thread.join(10)
    return said, heard


@pytest.mark.skipif("os.geteuid() != 0", reason="the one who asks has to be root, as the desk is")
def test_the_desk_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _asked(b'{"do": "preflight"}\n', monkeypatch) == ({"done": True}, [{"do": "preflight"}])
    for line in (b"what?\n", b"[]\n", b"\n"):
        assert _asked(line, monkeypatch) == ({"refused": "this is no question"}, [])


@pytest.mark.parametrize("unit", ["postfix.service", "darkpipe-home-page.service", "", f"x{DESK}"])
def test_root_in_another_cage_is_not_heard(monkeypatch: pytest.MonkeyPatch, unit: str) -> None:
    said, heard = _asked(b'{"do": "preflight"}\n', monkeypatch, unit)
    assert (said, heard) == ({"refused": "this is for darkpipe-desk.service alone"}, [])


def test_whose_process_it_is_says_its_control_group(tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "7/cgroup").write_text("0::/system.slice/darkpipe-desk.service\n")
    assert unit_of(7, tmp_path) == DESK
    assert unit_of(8, tmp_path) == ""
