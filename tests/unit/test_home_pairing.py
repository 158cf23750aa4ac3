"""Home's pairing with a real relay's agent over sockets; only the tunnel between them and systemd are stand-ins."""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from bootstrap.ends import make_bootstrap
from home import pair_keeper, pair_push, pair_service
from home.control_client import Answer, ControlClient
from home.control_errors import ControlFailure
from home.pair_keeper import Keeper, clashes, free_pair
from home.pairing import Change, Kept, Restored, Start, Tick, Which
from home.pairing_file import Document
from home.pairing_file import read as read_document
from home.queue_keys import ensure_identity
from home.relay_peer import queue_client, read_peer
from home.store import Store
from home.tunnel_service import FileError
from model.accounts import Accounts
from model.control import Message
from model.mtls import MtlsHome, read_home_end
from model.openvpn import is_fingerprint
from model.pairing import WIREGUARD_TURNS, AgentState, Counter, Offer
from model.recipients import RecipientList
from model.site import OfflinePolicy, Transport
from model.site import Relay as RelayOfSite
from model.tunnel import HomeEnd
from relay.pairing import DELAY
from relay.recipients import Recipients
from tests.unit.agent_world import Relay, relay_at_work
from tests.unit.certificates import some_certificates
from tests.unit.pairing_world import bootstrap_end, bootstrap_keys, fresh_relay, make_own

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
        document = read_document(self.folder / "state.json") or Document(bootstrap_end(), Kept("a" * 32))
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


def _using(home: Home) -> Which:
    return home.keeper.state.using


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    monkeypatch.setattr(
        pair_keeper, "ControlClient", lambda place, us, pins: ControlClient(("127.0.0.1", place[1]), us, pins)
    )
    folder = tmp_path / "home"
    folder.mkdir()
    with relay_at_work(tmp_path / "relay", monkeypatch, fresh_relay()) as relay:
        yield Home(folder, relay)


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


@pytest.mark.parametrize(
    "name",
    ["published", "peer.json", "control.pem", "relay.pem", "settings.json", "recipients.json", "recipients.json.of"],
)
def test_a_damaged_file_that_home_can_make_again_is_made_again(home: Home, tmp_path: Path, name: str) -> None:
    """The service would end by it, and after each new start again."""
    home.keeper.happen(Change(home.now, make_own()))
    home.wait(int(DELAY) + 6)
    assert home.is_paired
    keys = tmp_path / "queue-keys"
    keys.mkdir()
    ensure_identity(keys)
    site = RelayOfSite.model_validate({"address": "mx.example.com"})
    with home.keeper.client(home.keeper.state.kept.base) as client:
        pair_push.push(client, home.folder, keys, site, _ACCOUNTS)
    (home.folder / name).write_bytes(b"\xff\xfe\x00")
    home.start()
    with home.keeper.client(home.keeper.state.kept.base) as client:
        state = pair_push.push(client, home.folder, keys, site, _ACCOUNTS)
    assert state.recipients
    assert state.settings
    assert b"\xff" not in (home.folder / name).read_bytes()


@pytest.mark.parametrize("paired", [False, True])
def test_a_relay_that_answers_with_a_key_of_another_transport_ends_nothing(
    home: Home, monkeypatch: pytest.MonkeyPatch, paired: bool
) -> None:
    """No tunnel can be made of it, and it would lie there still after each new start of the service."""
    if paired:
        home.keeper.happen(Change(home.now, make_own()))
        home.wait(int(DELAY) + 6)
        assert home.is_paired

    def lie(self: ControlClient, method: str, path: str, message: Message) -> Answer:
        if isinstance(message, Offer):
            answer = Counter("b" * 32, ":".join(["AB"] * 32), some_certificates()[0][1])
            return Answer(200, {}, answer.to_json())
        return send(self, method, path, message)

    send = ControlClient.send
    monkeypatch.setattr(ControlClient, "send", lie)
    home.keeper.happen(Change(home.now, make_own()))
    home.wait(3)
    assert "another transport" in home.keeper.state.trouble
    assert home.keeper.state.kept.answer is None
    monkeypatch.setattr(ControlClient, "send", send)
    home.keeper.happen(Change(home.now, make_own()))
    home.wait(90)
    assert home.is_paired


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
        # Its own count may have come to the same number, with other settings.
        backup = home.folder / pair_push.SETTINGS
        old, lost = backup.read_bytes(), site.model_copy(update={"budget": "1G"})
        assert pair_push.push(client, home.folder, keys, lost, _ACCOUNTS).settings == 2
        backup.write_bytes(old)
        others = site.model_copy(update={"offline": OfflinePolicy.TEMPFAIL})
        assert pair_push.push(client, home.folder, keys, others, _ACCOUNTS).settings == 3
    in_force = json.loads((home.relay.folders.config / "settings.json").read_text())
    assert (in_force["policy"], in_force["version"]) == ("tempfail", 3)
    text = (home.relay.folders.config / "recipients.json").read_text()
    judge = Recipients(RecipientList.read(text)).judge
    taken = ["alice@example.com", "Alice+shop@EXAMPLE.com", "family@example.com", "postmaster@example.com"]
    taken += ["anybody@example.net", "postmaster@mx.example.com"]
    assert [judge(address).code for address in taken] == [250] * len(taken)
    assert [judge(address).code for address in ("nobody@example.com", "x@example.org")] == [550, 554]
    assert "alice" not in text


def test_another_relay_takes_the_place_of_the_one_before(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    home.keeper.happen(Change(home.now, make_own()))
    home.wait(8)
    monkeypatch.setattr(pair_keeper, "home_networks", list)
    monkeypatch.setattr(pair_keeper, "make_own", lambda _, pair, mtls: make_own(*pair))
    ends = {"home4": "10.210.0.1", "relay4": "10.210.0.0", "home6": "fd77::2", "relay6": "fd77::1"}
    other = bootstrap_end().model_copy(update={"relay": "mx2.example.com"})
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
    bootstraps += [bootstrap_end()] if back else []
    for other in bootstraps:
        home.keeper.replace(other)
        assert home.keeper.end == read_home_end((home.folder / "relay.json").read_bytes()) == other
        offered = home.keeper.state.kept.own
        assert offered
        assert is_fingerprint(offered.public) is isinstance(other, MtlsHome)
        keeper = home.start()
        assert (keeper.end, keeper.state.kept.own) == (other, offered)


def test_a_bootstrap_that_takes_the_place_of_another_counts_until_home_is_paired(home: Home) -> None:
    store = Store(home.folder)
    store.tunnel.parent.mkdir()
    store.tunnel.write_text(bootstrap_end().model_dump_json())
    folder = home.folder / "pairing"
    folder.mkdir()
    first = pair_service.read_document(folder, store)
    assert first
    assert pair_service.read_document(folder, store) == first
    other = bootstrap_end().model_copy(update={"relay": "mx2.example.com"})
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


def test_home_makes_its_half_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = pair_keeper._run

    def run(*argv: str, text: str = "") -> str:
        return real(*argv, text=text) if argv[0] == "openssl" else f"{1:042d}A=\n"

    monkeypatch.setattr(pair_keeper, "_run", run)
    own = pair_keeper.make_own("darkpipe-home", ("10.200.0.1", "10.200.0.0"))
    assert (own.home4, own.relay4) == ("10.200.0.1", "10.200.0.0")
    assert own.certificate in own.pem
    assert "PRIVATE KEY" not in own.certificate
    (tmp_path / "own.pem").write_text(own.pem)
    ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(
        tmp_path / "own.pem"
    )  # fails unless key and certificate fit
    assert pair_keeper.make_own("darkpipe-home", ("10.200.0.1", "10.200.0.0")).pem != own.pem
