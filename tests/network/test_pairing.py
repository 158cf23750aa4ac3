"""Home and relay pair through a real tunnel, and change keys under traffic; cloud-init has made the relay."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from builder.bootstrap import Bootstrap, make_bootstrap
from builder.build import SOURCE
from builder.user_data import user_data
from home import pairing_file
from home.control_client import ControlClient
from home.control_client import Home as Asker
from home.control_errors import ControlFailure, NotAccepted
from home.pair_keeper import STATE_FILE, Keeper, make_own
from home.pairing import Change, Claim, Kept, Look, Own, Start, Tick, Which
from home.pairing_file import Document
from model.control import AGENT_PORT, QUEUE_PORT, QueueSettings
from model.control_tls import Pins
from model.document import parse_site
from model.mtls import MtlsHome
from model.pairing import AgentState
from model.tunnel import HOME_INTERFACE, HomeEnd, RelayEnd
from tests.cloud.site import SETTINGS, SITE_TEXT
from tests.machine.machine import wait_for
from tests.network.conftest import NewVps, scratch_folder
from tests.network.handshake import is_answered
from tests.network.internet import Internet, Site
from tests.network.software import Ends, both_ends

_SITE = Site(1)
_PAIR = ("10.199.0.1", "10.199.0.0")


@dataclass
class Home:
    """A home: its keys, and a tunnel that goes by relay.json, as darkpipe-tunnel does."""

    ends: Ends
    bootstrap: Bootstrap
    folder: Path
    endpoint: str
    used: str = ""
    since: float = 0.0
    keeper: Keeper = field(init=False)

    def start(self) -> None:
        assert isinstance(self.bootstrap.home, HomeEnd)
        document = pairing_file.read(self.folder / STATE_FILE) or Document(self.bootstrap.home, Kept("a" * 32))
        self.keeper = Keeper(document, self.folder, self.folder / "relay.json", lambda _: None, lambda: None)
        self.keeper.happen(Start(time.monotonic()))

    def own(self) -> Own:
        return make_own("darkpipe-home", _PAIR)

    def step(self) -> None:
        self._follow()
        up = self._is_up()
        self.ends.home.call(lambda: self.keeper.happen(Tick(time.monotonic(), up)))

    def until(self, what: str, seconds: float = 150.0) -> None:
        """Go on until home and relay are paired and no change is under way."""
        end = time.monotonic() + seconds
        while not self.is_paired:
            assert time.monotonic() < end, f"{what}: {self.keeper.state}"
            self.step()
            time.sleep(0.3)

    @property
    def is_paired(self) -> bool:
        kept = self.keeper.state.kept
        return kept.base is not None and kept.own is None

    def state(self) -> AgentState:
        def ask() -> AgentState:
            with self.keeper.client(self.keeper.state.kept.base) as client:
                return client.request("GET", "/state").message(AgentState)

        return self.ends.home.call(ask)

    def push(self, settings: QueueSettings) -> None:
        def act() -> None:
            with self.keeper.client(self.keeper.state.kept.base) as client:
                client.send("PUT", "/settings", settings)

        self.ends.home.call(act)

    def _follow(self) -> None:
        text = (self.folder / "relay.json").read_text()
        if text == self.used:
            return
        self.used, self.since = text, time.time()
        end, run, name = HomeEnd.model_validate_json(text), self.ends.home.run, HOME_INTERFACE
        run("wg", "set", name, "private-key", "/dev/stdin", stdin=end.private_key)
        for peer in run("wg", "show", name, "peers").split():
            run("wg", "set", name, "peer", peer, "remove")
        where = ("allowed-ips", "0.0.0.0/0,::/0", "endpoint", self.endpoint, "persistent-keepalive", "25")
        run("wg", "set", name, "peer", end.relay_key, *where)
        run("ip", "address", "replace", f"{end.addresses.home4}/32", "dev", name)
        run("ip", "route", "replace", str(end.addresses.relay4), "dev", name, "src", str(end.addresses.home4))

    def _is_up(self) -> bool:
        rows = self.ends.home.run("wg", "show", HOME_INTERFACE, "latest-handshakes").split()
        return bool(rows) and int(rows[1]) >= int(self.since)


@pytest.fixture(scope="module")
def bootstrap() -> Bootstrap:
    return make_bootstrap(parse_site(SITE_TEXT, "site.yaml").relays[0])


@pytest.fixture(scope="module")
def home(new_vps: NewVps, internet: Internet, bootstrap: Bootstrap) -> Iterator[Home]:
    vps = new_vps(user_data(parse_site(SITE_TEXT, "site.yaml"), bootstrap)).start()
    assert vps.cloud_init().status == "done", vps.log()
    with both_ends(vps, _SITE.address, bootstrap, internet, 2) as ends, scratch_folder() as folder:
        wait_for(ends.has_none, "the receiver")
        ends.bring_first(ends.bundle("real", agent=(SOURCE / "relay/agent.py").read_text()))
        made = Home(ends, bootstrap, folder, f"{_SITE.address}:51820")
        made.start()
        yield made
        print(vps.run("journalctl", "--no-pager", "--unit=darkpipe-*"))  # shown when a test has failed


def test_they_pair_and_the_bootstrap_is_dead(home: Home, bootstrap: Bootstrap) -> None:
    home.keeper.happen(Change(time.monotonic(), home.own()))
    home.until("pairing")
    assert home.state().paired
    vps = home.ends.vps
    wait_for(lambda: "darkpipe-retire" in vps.run("journalctl", "--no-pager", "-o", "cat"), "the copies to go")
    for key in (bootstrap.relay.private_key, bootstrap.home.private_key):
        # The seed stands for the provider's own record of the user-data, which nobody here can reach.
        places = ("/etc", "/var/lib", "/var/log", "/run", "/opt")
        found = vps.run("grep", "-rlsF", "--exclude-dir=seed", key, *places, check=False)
        assert found == "", found
    assert home.keeper.end.relay_key in _public(vps.run("cat", "/etc/wireguard/home0.conf"), home)
    assert json.loads(vps.run("cat", "/var/lib/darkpipe/config/fence.json")) == {"home": "a" * 32, "home_epoch": 0}
    assert str(home.keeper.end.addresses.home4) == _PAIR[0]
    assert f"inet {_PAIR[1]}/32" in vps.run("ip", "-4", "address", "show", "home0")


def test_who_comes_later_with_the_same_bootstrap_gets_no_answer(
    home: Home, internet: Internet, bootstrap: Bootstrap
) -> None:
    """A second home, or a thief of the first one's seed, also while the first is away."""

    def is_heard(end: HomeEnd | MtlsHome) -> bool:
        assert isinstance(end, HomeEnd)
        # Later than home's own latest one: its time stamps are TAI, which is ten seconds ahead.
        return internet.router.call(is_answered, end, _SITE.address, int(time.time()) + 12)

    assert not is_heard(bootstrap.home)
    assert is_heard(home.keeper.end), "these are the keys that hold"
    wait_for(lambda: _asked(home).paired, "home takes its place again")


def test_a_member_of_the_tunnel_without_a_key_gets_nothing(home: Home) -> None:
    """From home's end of the tunnel, where the mail server is: neither plain, nor with a key that nobody has pinned."""

    def ask(port: int, pins: Pins | None) -> None:
        with ControlClient((home.ends.relay, port), Asker("a" * 32, 99), pins) as client:
            client.request("GET", "/state" if port == AGENT_PORT else "/items")

    keys = home.keeper.state.kept.base
    assert keys
    other = home.folder / "other.pem"
    other.write_text(home.own().pem)
    pins = Pins(other, keys.relay.certificate, server=False)
    home.push(SETTINGS)
    wait_for(lambda: home.ends.home.reachable([QUEUE_PORT], home.ends.relay) == {QUEUE_PORT}, "the queue")
    for port in (AGENT_PORT, QUEUE_PORT):
        with pytest.raises(NotAccepted):
            home.ends.home.call(ask, port, pins)
        with pytest.raises(ControlFailure):
            home.ends.home.call(ask, port, None)
    assert home.state().home_epoch == 0


def test_the_relays_keys_are_in_three_files_that_root_alone_reads(home: Home) -> None:
    vps, places = home.ends.vps, ("/etc", "/var", "/run", "/opt", "/root", "/tmp", "/usr/local")
    conf, pem = vps.run("cat", "/etc/wireguard/home0.conf"), vps.run("cat", "/var/lib/darkpipe/control/relay.pem")
    wireguard, control = _value(conf, "PrivateKey"), pem.splitlines()[1]

    def seen(key: str, *user: str) -> set[str]:
        found = vps.run(*user, "grep", "-rlsF", "--exclude-dir=seed", key, *places, check=False).split()
        return {Path(name).name for name in found}

    nobody = ("setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups")
    for key, files in ((wireguard, {"home0.conf", "pairing.json"}), (control, {"relay.pem", "pairing.json"})):
        assert seen(key) == files
        assert seen(key, *nobody) == set()
        assert key not in vps.run("journalctl", "--no-pager", "-o", "verbose")
        planted = vps.files / "opt/planted"
        planted.write_text(key)
        planted.chmod(0o644)
        assert seen(key, *nobody) == {"planted"}
        planted.unlink()


def test_keys_change_while_something_flows_through_the_tunnel(home: Home) -> None:
    """A connection that was there before goes on, and the longest pause is a matter of seconds."""
    pauses, stopped = [0.0], threading.Event()

    def talk() -> None:
        latest = time.monotonic()
        while not stopped.is_set():
            if home.ends.home.pings(home.ends.relay):
                pauses.append(time.monotonic() - latest)
                latest = time.monotonic()
            time.sleep(0.1)

    before = home.keeper.end.relay_key
    talking = threading.Thread(target=talk)
    talking.start()
    try:
        home.keeper.happen(Change(time.monotonic(), home.own()))
        home.until("the change")
        time.sleep(3)
    finally:
        stopped.set()
        talking.join()
    assert home.keeper.end.relay_key != before
    assert home.state().paired
    assert len(pauses) > 3, "something was measured"
    assert max(pauses) < 15, pauses


@pytest.mark.parametrize("moment", [Which.BASE, Which.NEXT])
def test_a_relay_without_power_in_the_middle_of_a_change_is_carried_on_with(home: Home, moment: Which) -> None:
    home.keeper.happen(Change(time.monotonic(), home.own()))
    while home.keeper.state.using is not moment:
        home.step()
        time.sleep(0.1)
    home.ends.vps.pull_plug()
    home.ends.vps.start()
    home.start()  # home has had none, either
    home.until("the change", 240)
    assert home.state().paired


def test_user_data_that_a_provider_has_run_again_change_no_keys(home: Home, bootstrap: Bootstrap) -> None:
    """They write the tunnel's file anew, with the bootstrap's keys, and start the tunnel by it."""
    vps, before = home.ends.vps, home.keeper.end
    vps.run("cloud-init", "clean", "--logs")
    vps.pull_plug()
    assert vps.start().cloud_init().status == "done", vps.log()
    wait_for(lambda: _asked(home).paired, "the relay answers", 120)
    assert home.keeper.end == before

    def copies() -> str:
        places = ("/etc", "/var/lib", "/run", "/opt")
        return vps.run("grep", "-rlsF", "--exclude-dir=seed", bootstrap.relay.private_key, *places, check=False)

    wait_for(lambda: not copies(), "the bootstrap's key to go")


def test_a_relay_that_was_built_anew_is_found_and_claimed_after_consent(home: Home) -> None:
    _make_anew(home, home.bootstrap)
    before = home.keeper.state.kept.base
    home.keeper.happen(Look(time.monotonic()))
    end = time.monotonic() + 90
    while not home.keeper.state.kept.rebuilt:
        assert time.monotonic() < end, home.keeper.state
        home.step()
        time.sleep(0.3)
    assert home.keeper.state.kept.base == before
    home.keeper.happen(Claim(time.monotonic(), home.own()))
    home.until("the claim", 240)
    assert home.state().paired


def test_a_relay_from_other_user_data_takes_the_place_of_the_one_before(home: Home) -> None:
    """Its firewall is that of the one before, and so are its addresses."""
    before, made = home.keeper.end, make_bootstrap(parse_site(SITE_TEXT, "site.yaml").relays[0])
    addresses = home.bootstrap.home.addresses
    other = Bootstrap(
        home=made.home.model_copy(update={"addresses": addresses}),
        relay=made.relay.model_copy(update={"addresses": addresses}),
    )
    _make_anew(home, other)
    end = other.home
    assert isinstance(end, HomeEnd)
    home.ends.home.call(lambda: home.keeper.replace(end))
    home.until("the other relay", 240)
    assert home.state().paired
    for file in ("state.json", "relay.json", "control.pem"):
        text = (home.folder / file).read_text()
        assert before.private_key not in text
        assert before.relay_key not in text


def _asked(home: Home) -> AgentState:
    home.step()
    try:
        return home.state()
    except ControlFailure:
        return AgentState(0, "", paired=False, clock=0)


def _make_anew(home: Home, bootstrap: Bootstrap) -> None:
    """Put the relay's disk back to what it was before pairing, with the keys of a bootstrap."""
    vps, relay = home.ends.vps, bootstrap.relay
    vps.run("rm", "-r", "/var/lib/darkpipe/agent", "/var/lib/darkpipe/control")
    conf = vps.run("cat", "/etc/wireguard/home0.conf")
    assert isinstance(relay, RelayEnd)
    text = conf.replace(_value(conf, "PrivateKey"), relay.private_key).replace(
        _value(conf, "PublicKey"), relay.home_key
    )
    (vps.files / "etc/wireguard/home0.conf").write_text(text)
    vps.pull_plug()
    vps.start()


def _value(conf: str, name: str) -> str:
    return next(line.partition("=")[2].strip() for line in conf.splitlines() if line.startswith(name))


def _public(conf: str, home: Home) -> str:
    return home.ends.home.run("wg", "pubkey", stdin=_value(conf, "PrivateKey"))
