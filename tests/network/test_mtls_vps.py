"""User-data for a network without UDP make a server that is reached by OpenVPN, and home brings the software by it."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from bootstrap.ends import make_bootstrap
from builder.user_data import user_data
from home.openvpn_link import openvpn_settings
from home.tunnel_link import address_commands
from model.mtls import MtlsHome
from model.site import Site as MailSite
from tests.cloud.site import PORTS, SETTINGS
from tests.machine.machine import wait_for
from tests.network.conftest import NewVps, scratch_folder
from tests.network.internet import Internet, Site
from tests.network.net import namespace
from tests.network.software import Ends

_SITE = Site(1)
_MAIL = {
    "version": 1,
    "domains": ["example.com"],
    "users": [{"address": "alice@example.com"}],
    "disk": {"unlock": "none"},
    "relays": [{"address": "mx.example.com", "offline": "tempfail", "transport": "mtls"}],
}


@pytest.fixture(scope="module")
def ends(new_vps: NewVps, internet: Internet) -> Iterator[Ends]:
    """A server that cloud-init has made, and a home whose network lets TCP 443 out and nothing else."""
    site = MailSite.model_validate(_MAIL)
    bootstrap = make_bootstrap(site.relays[0])
    assert isinstance(bootstrap.home, MtlsHome)
    vps = new_vps(user_data(site, bootstrap)).start()
    assert vps.cloud_init().status == "done", vps.log()
    with namespace() as home, scratch_folder() as folder:
        internet.connect(home, 2)
        home.run("nft", "--file", "-", stdin=_STRICT)
        home.run("ip", "tuntap", "add", "dev", "relay0", "mode", "tun")
        for family, lines in zip(("-4", "-6"), address_commands(bootstrap.home), strict=True):
            home.run("ip", family, "-batch", "-", stdin="\n".join(lines))
        home.run("mkdir", "-p", "/run/darkpipe-tunnel/openvpn")
        settings = folder / "settings"
        settings.write_text(openvpn_settings(bootstrap.home, _SITE.address))
        with home.running("openvpn", "--config", str(settings)):
            yield Ends(vps, home, str(bootstrap.home.addresses.relay6), folder)
            print(vps.run("journalctl", "--no-pager", "--unit=darkpipe-*", "--unit=openvpn-*"))


_STRICT = """\
table inet strict {
	chain output {
		type filter hook output priority 0; policy drop;
		oifname { "lo", "relay0" } accept
		tcp dport 443 accept
		meta l4proto icmpv6 accept
	}
}
"""


def test_the_receiver_answers_through_the_webs_port(ends: Ends, internet: Internet) -> None:
    wait_for(ends.has_none, "the receiver", 60)
    # OpenVPN's own port, and the web's that leads there.
    assert internet.router.reachable({*PORTS, 1194, 2600, 2601}, _SITE.address) == {443, 1194}
    assert ends.vps.failed_units() == []


def test_openvpn_is_tight(ends: Ends) -> None:
    report = ends.vps.run("systemd-analyze", "security", "--no-pager", "openvpn-server@home0")
    found = re.search(r"Overall exposure level for [^:]*: ([0-9.]+) ", report)
    assert found, report
    assert float(found[1]) <= 2.5, report
    user = ends.vps.run("ps", "--no-headers", "-o", "user:32", "-C", "openvpn").strip()
    assert user not in {"", "root"}


def test_the_software_comes_and_the_tunnel_stays_on_the_webs_port(ends: Ends, internet: Internet) -> None:
    ends.bring_first(ends.bundle("first"))
    ends.push(SETTINGS)
    wait_for(lambda: internet.router.reachable(PORTS, _SITE.address) == PORTS, "the relay", 60)
    rules = ends.vps.run("nft", "list", "ruleset")
    assert "redirect" not in rules
    # A new connection goes through HAProxy.
    ends.vps.run("systemctl", "restart", "openvpn-server@home0")
    wait_for(lambda: ends.home.reachable({2601}, ends.relay) == {2601}, "the agent by the new connection", 60)
    assert ends.vps.failed_units() == []
