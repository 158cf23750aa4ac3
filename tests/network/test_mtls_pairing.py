"""Home and relay pair over the tunnel of OpenVPN and change its keys; cloud-init has made the relay."""

from __future__ import annotations

import json
import subprocess
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
from home.control_errors import ControlFailure
from home.openvpn_link import openvpn_settings
from home.pair_keeper import STATE_FILE, Keeper, make_own
from home.pairing import Change, Claim, Kept, Look, Own, Start, Tick, Which
from home.pairing_file import Document
from home.tunnel_link import address_commands
from model.mtls import MtlsHome, parse_home_end
from model.pairing import AgentState
from model.site import Site as MailSite
from model.tunnel import HOME_INTERFACE
from tests.machine.machine import wait_for
from tests.network.conftest import NewVps, scratch_folder
from tests.network.internet import Internet, Site
from tests.network.net import Namespace, namespace
from tests.network.software import Ends

_SITE = Site(1)
_PAIR = ("10.199.0.1", "10.199.0.0")
_MAIL = MailSite.model_validate(
    {
        "version": 1,
        "domains": ["example.com"],
        "users": [{"address": "alice@example.com"}],
        "disk": {"unlock": "none"},
        "relays": [{"address": "mx.example.com", "offline": "tempfail", "transport": "mtls"}],
    }
)
_CONF = "/etc/openvpn/server/home0.conf"


@dataclass
class Home:
    """A home: its keys, and an OpenVPN that goes by relay.json, as darkpipe-tunnel does."""

    ends: Ends
    bootstrap: Bootstrap
    folder: Path
    used: str = ""
    openvpn: subprocess.Popen[bytes] | None = None
    keeper: Keeper = field(init=False)

    def start(self) -> None:
        assert isinstance(self.bootstrap.home, MtlsHome)
        document = pairing_file.read(self.folder / STATE_FILE) or Document(self.bootstrap.home, Kept("a" * 32))
        self.keeper = Keeper(document, self.folder, self.folder / "relay.json", lambda _: None, lambda: None)
        self.keeper.happen(Start(time.monotonic()))

    def stop(self) -> None:
        if self.openvpn:
            self.openvpn.terminate()
            self.openvpn.wait()
            self.openvpn = None

    def own(self) -> Own:
        return make_own("darkpipe-home", _PAIR, mtls=True)

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

    def _follow(self) -> None:
        text = (self.folder / "relay.json").read_text()
        if text == self.used:
            return
        self.stop()
        self.used = text
        end = parse_home_end(json.loads(text))
        assert isinstance(end, MtlsHome)
        make_interface(self.ends.home, end)
        settings = self.folder / "settings"
        settings.write_text(openvpn_settings(end, _SITE.address))
        self.openvpn = subprocess.Popen(self.ends.home.command("openvpn", "--config", str(settings)))

    def _is_up(self) -> bool:
        return self.ends.home.reachable({2601}, self.ends.relay) == {2601}


def make_interface(home: Namespace, end: MtlsHome) -> None:
    """Make the interface anew, with the addresses of now."""
    home.run("ip", "link", "delete", "dev", HOME_INTERFACE, check=False)
    home.run("ip", "tuntap", "add", "dev", HOME_INTERFACE, "mode", "tun")
    for family, lines in zip(("-4", "-6"), address_commands(end), strict=True):
        home.run("ip", family, "-batch", "-", stdin="\n".join(lines))


@pytest.fixture(scope="module")
def bootstrap() -> Bootstrap:
    return make_bootstrap(_MAIL.relays[0])


@pytest.fixture(scope="module")
def home(new_vps: NewVps, internet: Internet, bootstrap: Bootstrap) -> Iterator[Home]:
    vps = new_vps(user_data(_MAIL, bootstrap)).start()
    assert vps.cloud_init().status == "done", vps.log()
    with namespace() as place, scratch_folder() as folder, scratch_folder() as bundles:
        internet.connect(place, 2)
        place.run("mkdir", "/run/darkpipe-tunnel")
        made = Home(Ends(vps, place, str(bootstrap.home.addresses.relay6), bundles), bootstrap, folder)
        made.start()
        try:
            made.step()
            wait_for(made.ends.has_none, "the receiver", 60)
            made.ends.bring_first(made.ends.bundle("real", agent=(SOURCE / "relay/agent.py").read_text()))
            yield made
        finally:
            made.stop()
            print(vps.run("journalctl", "--no-pager", "--unit=darkpipe-*", "--unit=openvpn-*"))


def test_they_pair_and_the_one_time_certificates_are_dead(home: Home, bootstrap: Bootstrap) -> None:
    home.keeper.happen(Change(time.monotonic(), home.own()))
    home.until("pairing")
    assert home.state().paired
    vps = home.ends.vps
    wait_for(lambda: "darkpipe-retire" in vps.run("journalctl", "--no-pager", "-o", "cat"), "the copies to go")
    for end in (bootstrap.relay, bootstrap.home):
        line = end.private_key.splitlines()[1]
        # The seed stands for the provider's own record of the user-data, which nobody here can reach.
        places = ("/etc", "/var/lib", "/var/log", "/run", "/opt")
        found = vps.run("grep", "-rlsF", "--exclude-dir=seed", line, *places, check=False)
        assert found == "", found
    conf = vps.run("cat", _CONF)
    assert home.keeper.state.kept.base is not None
    assert home.keeper.state.kept.base.own.public in conf
    assert str(home.keeper.end.addresses.home4) == _PAIR[0]
    assert f"inet {_PAIR[1]}/32" in vps.run("ip", "-4", "address", "show", "home0")
    assert home.ends.home.pings(_PAIR[1], 5.0)
    # Who has the user-data, and nothing else, does not get in any more.
    assert isinstance(bootstrap.home, MtlsHome)
    assert "Initialization Sequence Completed" not in _call(home, bootstrap.home)
    assert vps.failed_units() == []


def _call(home: Home, end: MtlsHome) -> str:
    """Call by some keys for some seconds, beside the tunnel that is up, and give what OpenVPN logs."""
    lines = openvpn_settings(end, _SITE.address).splitlines(keepends=True)
    kept = "".join(line for line in lines if not line.startswith("management")).replace("dev relay0", "dev other0")
    home.ends.home.run("ip", "tuntap", "add", "dev", "other0", "mode", "tun")
    try:
        return home.ends.home.run("timeout", "6", "openvpn", "--config", "stdin", stdin=kept, check=False)
    finally:
        home.ends.home.run("ip", "link", "delete", "dev", "other0")


def test_keys_change_and_the_longest_pause_is_a_matter_of_seconds(home: Home) -> None:
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
    assert max(pauses) < 30, pauses


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
    """They write the tunnel's files anew, with the bootstrap's keys, and start the tunnel by them."""
    vps, before = home.ends.vps, home.keeper.end
    vps.run("cloud-init", "clean", "--logs")
    vps.pull_plug()
    assert vps.start().cloud_init().status == "done", vps.log()
    wait_for(lambda: _asked(home).paired, "the relay answers", 120)
    assert home.keeper.end == before
    line = bootstrap.relay.private_key.splitlines()[1]

    def copies() -> str:
        return vps.run("grep", "-rlsF", "--exclude-dir=seed", line, "/etc", "/var/lib", "/run", "/opt", check=False)

    wait_for(lambda: not copies(), "the bootstrap's key to go")


def test_a_relay_that_was_built_anew_is_found_and_claimed_after_consent(home: Home) -> None:
    """Its disk is what it was before pairing."""
    vps = home.ends.vps
    vps.run("rm", "-r", "/var/lib/darkpipe/agent", "/var/lib/darkpipe/control")
    vps.run("cloud-init", "clean", "--logs")
    vps.pull_plug()
    assert vps.start().cloud_init().status == "done", vps.log()
    before = home.keeper.state.kept.base
    home.keeper.happen(Look(time.monotonic()))
    end = time.monotonic() + 120
    while not home.keeper.state.kept.rebuilt:
        assert time.monotonic() < end, home.keeper.state
        home.step()
        time.sleep(0.3)
    assert home.keeper.state.kept.base == before
    home.keeper.happen(Claim(time.monotonic(), home.own()))
    home.until("the claim", 240)
    assert home.state().paired


def _asked(home: Home) -> AgentState:
    home.step()
    try:
        return home.state()
    except ControlFailure:
        return AgentState(0, "", paired=False, clock=0)
