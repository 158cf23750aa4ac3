"""`darkpipe pair` and `darkpipe relay`: what they tell of pairing, why a relay is silent, and what they wish for."""

from __future__ import annotations

import json
import socket
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner

from home import pair_commands, pair_diagnosis
from home.drain_state import Doing, Drained
from home.pair_commands import ask, in_words
from home.pair_diagnosis import Around, diagnose
from home.pair_service import stage
from home.pair_state import WISHES, Stage, Told, Wish, read_told, tell
from home.pairing import Kept, Which
from home.store import Store, write_accounts
from home.tunnel_state import Tunnel
from model.control import QueueStatus
from model.document import dump_site
from model.site import Relay
from model.tunnel import HomeEnd
from tests.unit.pairing_world import bootstrap_end
from tests.unit.stack_samples import accounts, site

_RELAY = "mx.example.com"


def test_a_server_that_runs_and_has_no_software_yet_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise its owner would look at the provider's, while a network on the way blocks UDP."""

    def connect(error: type[OSError]) -> bool:
        def fail(*_: object) -> None:
            raise error

        monkeypatch.setattr(socket, "create_connection", fail)
        return pair_diagnosis._answers("192.0.2.1", (443,))

    assert connect(ConnectionRefusedError)
    assert not connect(TimeoutError)


@pytest.mark.parametrize("mtls", [False, True])
def test_a_relay_of_which_only_openvpns_port_is_let_out_answers(monkeypatch: pytest.MonkeyPatch, mtls: bool) -> None:
    """What OpenVPN says of it tells more than that the others are shut."""

    def connect(place: tuple[str, int], _: float) -> socket.socket:
        if place[1] == 1194:
            return socket.socket()
        raise TimeoutError

    monkeypatch.setattr(socket, "create_connection", connect)
    monkeypatch.setattr(pair_diagnosis, "_resolve", lambda _: ("192.0.2.1",))
    since = datetime.now(UTC)
    tunnel = Tunnel(relay=_RELAY, up=False, handshake_seconds=None, endpoint=None, since=since, error="another one")
    assert pair_diagnosis.look_around(tunnel, paired=True, mtls=mtls).answers is mtls


@pytest.mark.parametrize(
    ("around", "words"),
    [
        (Around(""), ""),
        (Around(_RELAY, ("192.0.2.1",), ipv4=False, ipv6=False), "no way to the Internet"),
        (Around(_RELAY), "no address in the DNS"),
        (Around(_RELAY, ("2001:db8::1",), ipv6=False), "has IPv6 addresses only, and home has no IPv6"),
        (Around(_RELAY, ("192.0.2.1",), ipv4=False), "has IPv4 addresses only, and home has no IPv4"),
        (Around(_RELAY, ("192.0.2.1",), answers=True), "made from other or older user-data"),
        (
            Around(_RELAY, ("192.0.2.1",), answers=True, paired=True),
            "or the relay has other keys",
        ),
        (Around(_RELAY, ("192.0.2.1",), answers=True), "blocks UDP port 51820, for which there is `transport: mtls`"),
        (Around(_RELAY, ("192.0.2.1",), answers=True, mtls=True, error="it shows another certificate"), "it shows"),
        (Around(_RELAY, ("192.0.2.1",), answers=True, mtls=True), "a network on the way may block it"),
        (Around(_RELAY, ("192.0.2.1",)), "does not answer at all"),
    ],
)
def test_a_silent_relay_is_explained(around: Around, words: str) -> None:
    said = diagnose(around)
    assert words in said if words else said == ""


@pytest.mark.parametrize(
    ("kept", "using", "up", "expected"),
    [
        (Kept("a"), Which.BASE, False, Stage.CALLING),
        (Kept("a"), Which.BASE, True, Stage.OFFERING),
        (Kept("a"), Which.NEXT, True, Stage.CONFIRMING),
        (Kept("a", rebuilt=True), Which.BASE, False, Stage.REBUILT),
    ],
)
def test_stages_are_told(kept: Kept, using: Which, up: bool, expected: Stage) -> None:
    assert stage(kept, using, up=up) is expected


def test_every_stage_has_words() -> None:
    for one in Stage:
        assert next(in_words(Told(written=0, stage=one)))


def test_commands_show_what_the_service_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = Told(
        written=time.monotonic(), stage=Stage.PAIRED, relay=_RELAY, changed=1_800_000_000, relay_id="b" * 32, settings=2
    )
    tell(told, tmp_path / "state.json")
    monkeypatch.setattr(pair_commands, "read_told", lambda: read_told(tmp_path / "state.json"))
    shown = CliRunner().invoke(pair_commands.pair, [])
    assert shown.exit_code == 0
    assert "Home and relay are paired." in shown.output
    assert "2027-01-15" in shown.output
    as_json = CliRunner().invoke(pair_commands.relay, ["status", "--json"])
    assert json.loads(as_json.output)["pairing"]["settings"] == 2
    assert CliRunner().invoke(pair_commands.pair, ["--again", "--restored"]).exit_code == 2
    monkeypatch.setattr(pair_commands, "read_told", lambda: None)
    silent = CliRunner().invoke(pair_commands.pair, [])
    assert silent.exit_code == 1
    assert "darkpipe-pair does not run" in silent.output


def test_a_wish_is_taken_up_or_stays(tmp_path: Path) -> None:
    assert ask(Wish.ROTATE, tmp_path, patience=0.3) == ""
    path = tmp_path / WISHES / "rotate"
    assert path.exists()

    def grant() -> None:
        time.sleep(0.3)
        path.unlink()

    granting = threading.Thread(target=grant)
    granting.start()
    told = Told(written=0, stage=Stage.PAIRED, wish="rotate: home and relay change to new keys")
    assert ask(Wish.ROTATE, tmp_path, lambda: told, patience=5) == "home and relay change to new keys"
    granting.join()


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("pair", ["--again"]),
        ("pair", ["--restored", "--json"]),
        ("relay", ["rotate-keys"]),
        ("relay", ["replace", "--yes"]),
    ],
)
def test_a_wish_that_cannot_be_laid_down_is_told_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, words: list[str]
) -> None:
    """For whoever is not root, the folder is shut; a disk may be full."""
    monkeypatch.setattr(pair_commands, "read_told", lambda: Told(written=time.monotonic(), stage=Stage.PAIRED))
    monkeypatch.setattr(pair_commands, "FOLDER", tmp_path / "none")
    monkeypatch.setattr(pair_commands, "ask", lambda _: (tmp_path / "none/wish").touch())
    bootstrap = bootstrap_end().model_dump_json()
    done = CliRunner().invoke(getattr(pair_commands, command), words, input=bootstrap)
    assert (done.exit_code, "No such file" in done.output) == (1, True)
    assert isinstance(done.exception, SystemExit)


def test_what_became_of_a_wish_is_told_to_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pair_commands, "read_told", lambda: Told(written=time.monotonic(), stage=Stage.REBUILT))
    monkeypatch.setattr(pair_commands, "ask", lambda _: "home pairs with the relay")
    done = CliRunner().invoke(pair_commands.pair, ["--again", "--json"])
    assert json.loads(done.output) == {"said": "home pairs with the relay"}


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A device whose site names a relay."""
    made = Store(tmp_path)
    made.site.parent.mkdir()
    write_accounts(made.accounts, accounts())
    made.site.write_text(dump_site(site().model_copy(update={"relays": (Relay(address=_RELAY),)})))
    monkeypatch.setattr(pair_commands, "Store", lambda: made)
    return made


def test_keys_of_a_relay_are_of_no_use_to_a_device_whose_site_names_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: Store
) -> None:
    """Home and relay would be paired, and no mail would come or go."""
    store.site.write_text(dump_site(site()))
    (tmp_path / WISHES).mkdir()
    monkeypatch.setattr(pair_commands, "FOLDER", tmp_path)
    monkeypatch.setattr(pair_commands, "read_told", lambda: Told(written=time.monotonic(), stage=Stage.NO_RELAY))
    done = CliRunner().invoke(pair_commands.relay, ["replace", "--yes"], input=bootstrap_end().model_dump_json())
    assert (done.exit_code, "give the device a relay on its page" in done.output) == (1, True)
    assert not list((tmp_path / WISHES).iterdir())


@pytest.mark.usefixtures("store")
def test_replace_takes_homes_half_of_the_computers_file_and_accounts_for_what_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pair_commands, "FOLDER", tmp_path)
    (tmp_path / WISHES).mkdir()
    told = Told(written=time.monotonic(), stage=Stage.SILENT)
    monkeypatch.setattr(pair_commands, "read_told", lambda: told)
    queue = QueueStatus(1, "", "e", 3, 500, 1, 10**9, None, 1, 1)
    drained = Drained(written=time.monotonic(), doing=Doing.AWAY, since=0, relay=queue)
    monkeypatch.setattr(pair_commands, "read_drained", lambda: drained)
    home_half = bootstrap_end().model_dump(mode="json")
    both = json.dumps({"home": home_half, "relay": {"private_key": "secret of the relay"}})
    asked = CliRunner().invoke(pair_commands.relay, ["replace"], input=both)
    assert asked.exit_code == 2
    assert "3 messages wait, 500 octets" in asked.output
    path = tmp_path / WISHES / "replacement.json"
    assert not path.exists()
    done = CliRunner().invoke(pair_commands.relay, ["replace", "--yes"], input=both)
    assert done.exit_code == 0, done.output
    assert HomeEnd.model_validate_json(path.read_bytes()) == bootstrap_end()
    assert "secret of the relay" not in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600
    wrong = CliRunner().invoke(pair_commands.relay, ["replace", "--yes"], input="{}")
    assert "found no bootstrap" in wrong.output
    as_json = CliRunner().invoke(pair_commands.relay, ["status", "--json"])
    assert json.loads(as_json.output)["queue"]["count"] == 3
    assert "queue       3 messages" in CliRunner().invoke(pair_commands.relay, ["status"]).output
