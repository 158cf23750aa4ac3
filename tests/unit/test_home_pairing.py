"""Home's pairing with a real relay's agent over sockets; only the tunnel between them and systemd are stand-ins."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from ipaddress import IPv4Network
from pathlib import Path

import pytest
from click.testing import CliRunner

from bootstrap.ends import make_bootstrap
from builder.greeting import free_port
from home import pair_commands, pair_diagnosis, pair_keeper, pair_push, pair_service
from home.control_client import ControlClient
from home.control_errors import ControlFailure
from home.drain_state import Doing, Drained
from home.pair_commands import ask, in_words
from home.pair_diagnosis import Around, diagnose
from home.pair_keeper import Keeper, clashes, free_pair
from home.pair_service import stage
from home.pair_state import WISHES, Stage, Told, Wish, read_told, tell
from home.pairing import Change, Kept, Own, Restored, Start, Tick, Which
from home.pairing_file import Document
from home.pairing_file import read as read_document
from home.queue_keys import ensure_identity
from home.relay_peer import queue_client, read_peer
from home.store import Store
from home.tunnel_service import FileError
from home.tunnel_state import Tunnel
from model.accounts import Accounts
from model.control import QueueStatus
from model.mtls import MtlsHome, read_home_end
from model.openvpn import is_fingerprint
from model.pairing import WIREGUARD_TURNS, AgentState
from model.recipients import RecipientList
from model.site import Relay as RelayOfSite
from model.site import Transport
from model.tunnel import HomeEnd
from relay.pairing import DELAY
from relay.recipients import Recipients
from tests.unit.agent_world import Relay
from tests.unit.certificates import some_certificates
from tests.unit.pairing_world import bootstrap_keys, make_own

_ACCOUNTS = Accounts.model_validate(
    {
        "domains": [{"name": "example.com"}, {"name": "example.net", "catch_all": "alice@example.com"}],
        "users": [{"address": "alice@example.com"}],
        "aliases": [{"address": "family@example.com", "targets": ["alice@example.com"]}],
        "admin": "alice@example.com",
    }
)


class Home:
    """A home whose tunnel is up when both ends have keys that belong together."""

    def __init__(self, folder: Path, relay: Relay) -> None:
        self.folder, self.relay, self.now = folder, relay, 0.0
        self.prepared: list[str] = []
        self.published = 0
        self.keeper = self.start()

    def start(self) -> Keeper:
        document = read_document(self.folder / "state.json") or Document(_bootstrap(), Kept("a" * 32))
        made = Keeper(
            document,
            self.folder,
            self.folder / "relay.json",
            self.prepared.append,
            self._publish,
            lambda: self.now,
            self.relay.port,
        )
        self.keeper = made
        made.happen(Start(self.now))
        return made

    def _publish(self) -> None:
        self.published += 1

    def wait(self, seconds: int) -> None:
        for _ in range(seconds):
            self.now += 1
            self.relay.wait(1)
            self.keeper.happen(Tick(self.now, self.is_up))

    @property
    def is_up(self) -> bool:
        assert self.relay.agent
        used = self.relay.agent._keeper.state.in_use
        end = HomeEnd.model_validate_json((self.folder / "relay.json").read_bytes())
        keys = self.keeper.keys
        own = keys.own.public if keys else bootstrap_keys(mtls=False)[1]
        assert end.relay_key == self.keeper.end.relay_key
        return (own, end.relay_key) == (used.home_key, used.own_public)

    @property
    def is_paired(self) -> bool:
        kept = self.keeper.state.kept
        return kept.base is not None and kept.own is None and self.is_up


def _bootstrap() -> HomeEnd:
    own, _, _, relay_public = bootstrap_keys(mtls=False)
    addresses = {"home4": "10.200.0.1", "relay4": "10.200.0.0", "home6": "fd99::2", "relay6": "fd99::1"}
    return HomeEnd.model_validate(
        {"private_key": own, "relay_key": relay_public, "relay": "mx.example.com", "addresses": addresses}
    )


def _using(home: Home) -> Which:
    return home.keeper.state.using


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    relay = _relay(tmp_path / "relay", monkeypatch)
    monkeypatch.setattr(
        pair_keeper, "ControlClient", lambda place, us, pins: ControlClient(("127.0.0.1", place[1]), us, pins)
    )
    folder = tmp_path / "home"
    folder.mkdir()
    yield Home(folder, relay)
    relay.stop()


def _relay(base: Path, monkeypatch: pytest.MonkeyPatch) -> Relay:
    from relay.keeper import Folders
    from relay.pairing import Kept as RelayKept
    from relay.pairing import Keys
    from relay.pairing_file import write

    for name in ("agent", "control", "config"):
        (base / name).mkdir(parents=True)
    _, home_public, own, public = bootstrap_keys(mtls=False)
    folders = Folders(base)
    write(folders.state, RelayKept("b" * 32, Keys(own, public, "", home_public, "", "10.200.0.1", "10.200.0.0")))
    made = Relay(folders, free_port())
    monkeypatch.setattr("relay.agent_api.monotonic", lambda: made.now)
    made.start()
    return made


def test_home_pairs_and_its_programs_see_it(home: Home) -> None:
    assert read_peer(home.folder / "peer.json") is None
    home.keeper.happen(Change(home.now, make_own()))
    home.wait(int(DELAY) + 6)
    assert home.is_paired
    assert home.prepared == ["fd99::1"]
    peer = read_peer(home.folder / "peer.json")
    assert peer
    assert (peer.relay, peer.home, peer.home_epoch) == ("b" * 32, "a" * 32, 0)
    queue_client(home.folder, peer).close()
    for name in ("state.json", "control.pem", "peer.json", "relay.json"):
        assert (home.folder / name).stat().st_mode & 0o777 == 0o600
    assert not (home.folder / "in-use.pem").exists()
    with home.keeper.client(home.keeper.state.kept.base) as client:
        assert client.request("GET", "/state").message(AgentState).paired


def test_keys_rotate_and_a_start_in_the_middle_is_carried_on(home: Home) -> None:
    home.keeper.happen(Change(home.now, make_own()))
    home.wait(8)
    before, published = home.keeper.end, home.published
    home.keeper.happen(Change(home.now, make_own()))
    home.wait(1)
    assert _using(home) is Which.NEXT
    home.start()  # as after a power cut: it begins with the keys that hold
    assert _using(home) is Which.BASE
    home.wait(int(WIREGUARD_TURNS.relay) + 60)
    assert home.is_paired
    assert home.keeper.end.relay_key != before.relay_key
    assert home.published > published


def test_a_restored_home_is_the_one_that_counts(home: Home) -> None:
    home.keeper.happen(Change(home.now, make_own()))
    home.wait(8)
    home.keeper.happen(Restored(home.now, make_own()))
    home.wait(10)
    assert home.is_paired
    fence = json.loads((home.relay.folders.config / "fence.json").read_text())
    assert fence == {"home": "a" * 32, "home_epoch": 1}


def test_a_relay_that_cannot_be_given_its_software_is_offered_nothing(home: Home) -> None:
    def fail(_: str) -> None:
        raise ControlFailure("apt has failed")

    home.keeper._prepare = fail
    home.keeper.happen(Change(home.now, make_own()))
    home.wait(10)
    assert "apt has failed" in home.keeper.state.trouble
    assert home.relay.agent
    assert not home.relay.agent._keeper.state.kept.home


def test_the_relay_is_told_for_whom_it_takes_mail(home: Home, tmp_path: Path) -> None:
    home.keeper.happen(Change(home.now, make_own()))
    home.wait(8)
    keys = tmp_path / "queue-keys"
    keys.mkdir()
    ensure_identity(keys)
    site = RelayOfSite.model_validate({"address": "mx.example.com"})
    with home.keeper.client(home.keeper.state.kept.base) as client:
        state = pair_push.push(client, home.folder, keys, site, _ACCOUNTS)
        assert (state.recipients, state.settings) == (1, 1)
        assert pair_push.push(client, home.folder, keys, site, _ACCOUNTS) == state
        more = _ACCOUNTS.model_copy(update={"aliases": ()})
        assert pair_push.push(client, home.folder, keys, site, more).recipients == 2
        # A home from a backup counts on from what the relay has.
        for path in home.folder.glob("recipients.json*"):
            path.unlink()
        assert pair_push.push(client, home.folder, keys, site, _ACCOUNTS).recipients == 3
    text = (home.relay.folders.config / "recipients.json").read_text()
    judge = Recipients(RecipientList.read(text)).judge
    taken = ["alice@example.com", "Alice+shop@EXAMPLE.com", "family@example.com", "postmaster@example.com"]
    taken += ["anybody@example.net", "postmaster@mx.example.com"]
    assert [judge(address).code for address in taken] == [250] * len(taken)
    assert [judge(address).code for address in ("nobody@example.com", "x@example.org")] == [550, 554]
    assert "alice" not in text


def test_addresses_of_the_tunnel_avoid_the_networks_at_home() -> None:
    lan = [IPv4Network("10.128.0.0/10")]
    assert clashes(("10.130.0.1", "10.130.0.0"), lan)
    for _ in range(50):
        pair = free_pair(lan)
        assert not clashes(pair, lan)
    with pytest.raises(pair_keeper.ToolError, match="leave no address"):
        free_pair([IPv4Network("10.0.0.0/8")])


def test_networks_at_home_are_those_of_its_routes(monkeypatch: pytest.MonkeyPatch) -> None:
    routes = [
        {"dst": "default", "dev": "eth0"},
        {"dst": "192.168.1.0/24", "dev": "eth0"},
        {"dst": "10.200.0.0", "dev": "relay0"},
        {"dst": "10.9.0.1", "dev": "tun0"},
    ]
    monkeypatch.setattr(pair_keeper, "_run", lambda *_: json.dumps(routes))
    assert pair_keeper.home_networks() == [IPv4Network("192.168.1.0/24"), IPv4Network("10.9.0.1/32")]


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


_RELAY = "mx.example.com"


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
    assert words in diagnose(around)


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


def test_home_makes_its_half_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    real = pair_keeper._run

    def run(*argv: str, text: str = "") -> str:
        return real(*argv, text=text) if argv[0] == "openssl" else f"{1:042d}A=\n"

    monkeypatch.setattr(pair_keeper, "_run", run)
    own = pair_keeper.make_own("darkpipe-home", ("10.200.0.1", "10.200.0.0"))
    assert isinstance(own, Own)
    assert own.certificate in own.pem
    assert "PRIVATE KEY" not in own.certificate
    assert own.certificate not in [one for _, one in some_certificates()]


def test_another_relay_takes_the_place_of_the_one_before(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    home.keeper.happen(Change(home.now, make_own()))
    home.wait(8)
    monkeypatch.setattr(pair_keeper, "home_networks", list)
    monkeypatch.setattr(pair_keeper, "make_own", lambda _, pair, mtls: make_own(*pair))
    ends = {"home4": "10.210.0.1", "relay4": "10.210.0.0", "home6": "fd77::2", "relay6": "fd77::1"}
    other = _bootstrap().model_copy(update={"relay": "mx2.example.com"})
    other = HomeEnd.model_validate({**other.model_dump(mode="json"), "addresses": ends})
    home.keeper.replace(other)
    kept = home.keeper.state.kept
    assert kept.base is None
    assert kept.own
    assert (kept.own.home4, kept.own.relay4) == ("10.210.0.1", "10.210.0.0")
    assert home.keeper.end == other
    assert not (home.folder / "peer.json").exists()
    text = (home.folder / "state.json").read_text()
    assert "mx2.example.com" in text
    assert '"mx.example.com"' not in text


@pytest.mark.parametrize("back", [False, True])
def test_another_relay_may_have_another_transport(home: Home, monkeypatch: pytest.MonkeyPatch, back: bool) -> None:
    home.keeper.happen(Change(home.now, make_own()))
    home.wait(8)
    monkeypatch.setattr(pair_keeper, "home_networks", list)
    monkeypatch.setattr(pair_keeper, "make_own", lambda _, pair, mtls: make_own(*pair, mtls=mtls))
    bootstraps = [make_bootstrap(RelayOfSite(address="mx2.example.com", transport=Transport.MTLS)).home]
    bootstraps += [_bootstrap()] if back else []
    for other in bootstraps:
        home.keeper.replace(other)
        assert home.keeper.end == read_home_end((home.folder / "relay.json").read_bytes()) == other
        offered = home.keeper.state.kept.own
        assert offered
        assert is_fingerprint(offered.public) is isinstance(other, MtlsHome)
        keeper = home.start()
        assert (keeper.end, keeper.state.kept.own) == (other, offered)


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
    home_half = _bootstrap().model_dump(mode="json")
    both = json.dumps({"home": home_half, "relay": {"private_key": "secret of the relay"}})
    asked = CliRunner().invoke(pair_commands.relay, ["replace"], input=both)
    assert asked.exit_code == 2
    assert "3 messages wait, 500 octets" in asked.output
    path = tmp_path / WISHES / "replacement.json"
    assert not path.exists()
    done = CliRunner().invoke(pair_commands.relay, ["replace", "--yes"], input=both)
    assert done.exit_code == 0, done.output
    assert HomeEnd.model_validate_json(path.read_bytes()) == _bootstrap()
    assert "secret of the relay" not in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600
    wrong = CliRunner().invoke(pair_commands.relay, ["replace", "--yes"], input="{}")
    assert "found no bootstrap" in wrong.output
    as_json = CliRunner().invoke(pair_commands.relay, ["status", "--json"])
    assert json.loads(as_json.output)["queue"]["count"] == 3
    assert "queue       3 messages" in CliRunner().invoke(pair_commands.relay, ["status"]).output


def test_a_bootstrap_that_takes_the_place_of_another_counts_until_home_is_paired(home: Home) -> None:
    store = Store(home.folder)
    store.tunnel.parent.mkdir()
    store.tunnel.write_text(_bootstrap().model_dump_json())
    folder = home.folder / "pairing"
    folder.mkdir()
    first = pair_service.read_document(folder, store)
    assert first
    assert pair_service.read_document(folder, store) == first
    other = _bootstrap().model_copy(update={"relay": "mx2.example.com"})
    store.tunnel.write_text(other.model_dump_json())
    second = pair_service.read_document(folder, store)
    assert second
    assert (second.bootstrap, second.kept.home) == (other, first.kept.home)
    store.tunnel.write_text("{}")
    with pytest.raises(FileError, match="damaged"):
        pair_service.read_document(folder, store)
    # Once paired, the file is what pairing makes of it.
    home.keeper.happen(Change(home.now, make_own()))
    home.wait(8)
    (folder / "state.json").write_bytes((home.folder / "state.json").read_bytes())
    paired = pair_service.read_document(folder, store)
    assert paired
    assert paired.kept.base
