"""Home and relay pair over the tunnel of OpenVPN and change its keys; cloud-init has made the relay."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from bootstrap.ends import make_bootstrap
from builder.build import SOURCE
from builder.user_data import user_data
from home.control_errors import NotAccepted
from home.openvpn_link import openvpn_settings
from home.pairing import Keys, Which
from home.tunnel_link import address_commands
from model.mtls import MtlsHome, parse_home_end
from model.site import Site as MailSite
from model.tunnel import HOME_INTERFACE
from tests.machine.machine import wait_for
from tests.network.conftest import NewVps, scratch_folder
from tests.network.internet import Internet, Site
from tests.network.net import namespace
from tests.network.paired import (
    PAIR,
    PairingHome,
    check_change_under_pings,
    check_claim,
    check_first_pairing,
    check_power_cut,
    check_user_data_again,
)
from tests.network.software import Ends

_SITE = Site(1)
_MAIL = MailSite.model_validate(
    {
        "version": 1,
        "domains": ["example.com"],
        "users": [{"address": "alice@example.com"}],
        "disk": {"unlock": "none"},
        "relays": [{"address": "mx.example.com", "offline": "tempfail", "transport": "mtls"}],
    }
)


@dataclass
class Home(PairingHome):
    """A home with OpenVPN."""

    openvpn: subprocess.Popen[bytes] | None = None

    def stop(self) -> None:
        if self.openvpn:
            self.openvpn.terminate()
            self.openvpn.wait()
            self.openvpn = None

    def follow(self, text: str) -> None:
        self.stop()
        end, place = parse_home_end(json.loads(text)), self.ends.home
        assert isinstance(end, MtlsHome)
        place.run("ip", "link", "delete", "dev", HOME_INTERFACE, check=False)
        place.run("ip", "tuntap", "add", "dev", HOME_INTERFACE, "mode", "tun")
        for family, lines in zip(("-4", "-6"), address_commands(end), strict=True):
            place.run("ip", family, "-batch", "-", stdin="\n".join(lines))
        settings = self.folder / "settings"
        settings.write_text(openvpn_settings(end, _SITE.address))
        self.openvpn = subprocess.Popen(place.command("openvpn", "--config", str(settings)))

    def is_up(self) -> bool:
        return self.ends.home.reachable({2601}, self.ends.relay) == {2601}

    def ask_by(self, keys: Keys) -> None:
        """Ask the relay's agent how it is, by some keys of the control plane.

        Raises:
            NotAccepted: they are none of home's.
        """

        def ask() -> None:
            with self.keeper.client(keys) as client:
                client.request("GET", "/state")

        self.ends.home.call(ask)

    def call(self, end: MtlsHome) -> str:
        """Call by some keys for some seconds, beside the tunnel that is up, and give what OpenVPN logs."""
        lines = openvpn_settings(end, _SITE.address).splitlines(keepends=True)
        kept = "".join(line for line in lines if not line.startswith("management"))
        self.ends.home.run("ip", "tuntap", "add", "dev", "other0", "mode", "tun")
        try:
            command = ("timeout", "6", "openvpn", "--config", "stdin")
            return self.ends.home.run(*command, stdin=kept.replace(f"dev {HOME_INTERFACE}", "dev other0"), check=False)
        finally:
            self.ends.home.run("ip", "link", "delete", "dev", "other0")


@pytest.fixture(scope="module")
def home(new_vps: NewVps, internet: Internet) -> Iterator[Home]:
    bootstrap = make_bootstrap(_MAIL.relays[0])
    vps = new_vps(user_data(_MAIL, bootstrap)).start()
    assert vps.cloud_init().status == "done", vps.log()
    with namespace() as place, scratch_folder() as folder, scratch_folder() as bundles:
        internet.connect(place, 2)
        place.run("mkdir", "-p", "/run/darkpipe-tunnel/openvpn")
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


_UP = "Initialization Sequence Completed"


def test_they_pair_and_the_one_time_certificates_are_dead(home: Home) -> None:
    first = home.bootstrap.home
    assert isinstance(first, MtlsHome)
    assert _UP in home.call(first), "the control of what is below"
    check_first_pairing(home)
    keys = home.keeper.state.kept.base
    assert keys is not None
    assert keys.own.public in home.ends.vps.run("cat", "/etc/openvpn/server/home0.conf")
    assert home.ends.home.pings(PAIR[1], 5.0)
    # Who has the user-data, and nothing else, does not get in any more.
    assert _UP not in home.call(first)
    assert home.ends.vps.failed_units() == []


def test_keys_change_and_the_longest_pause_is_a_matter_of_seconds_and_those_of_before_are_dead(home: Home) -> None:
    before, old = home.keeper.end, home.keeper.state.kept.base
    check_change_under_pings(home, 30.0)
    now, new = home.keeper.end, home.keeper.state.kept.base
    assert isinstance(before, MtlsHome)
    assert isinstance(now, MtlsHome)
    assert old is not None
    assert new is not None
    assert before.certificate != now.certificate
    # Who has the old certificate, and knows all else that is new, is a stranger to the relay.
    stranger = now.model_copy(update={"private_key": before.private_key, "certificate": before.certificate})
    log = home.call(stranger)
    assert "TCP connection established" in log
    assert _UP not in log
    assert _UP in home.call(now), "the control: with the new one it is heard"
    # Nor does the old key of the control plane open anything, from inside of the tunnel.
    wait_for(lambda: home.asked().paired, "home takes its place again", 60)
    with pytest.raises(NotAccepted):
        home.ask_by(Keys(old.own, new.relay))
    home.ask_by(new)


@pytest.mark.parametrize("moment", [Which.BASE, Which.NEXT])
def test_a_relay_without_power_in_the_middle_of_a_change_is_carried_on_with(home: Home, moment: Which) -> None:
    check_power_cut(home, moment)


def test_user_data_that_a_provider_has_run_again_change_no_keys(home: Home) -> None:
    check_user_data_again(home)


def test_a_relay_that_was_built_anew_is_found_and_claimed_after_consent(home: Home) -> None:
    """Its disk is what it was before pairing."""
    vps = home.ends.vps
    vps.run("rm", "-r", "/var/lib/darkpipe/agent", "/var/lib/darkpipe/control")
    vps.run("cloud-init", "clean", "--logs")
    vps.pull_plug()
    assert vps.start().cloud_init().status == "done", vps.log()
    check_claim(home)
