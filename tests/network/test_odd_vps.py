"""User-data on a cloud machine, and for a name, that is not as most of them are."""

from __future__ import annotations

from dataclasses import replace

from bootstrap.ends import make_bootstrap
from builder.user_data import user_data
from model.document import parse_site
from tests.cloud.seed import Seed
from tests.cloud.site import PORTS, SETTINGS, SITE_TEXT
from tests.machine.machine import wait_for
from tests.network.conftest import NewVps
from tests.network.internet import Internet, Site
from tests.network.software import make_relay

_FIRST, _SECOND = Site(1), Site(2)
_DOMAIN = f"{'a-family-with-a-long-name-' * 2}of-its-own.example"


_UFW = """\
[Unit]
After=nftables.service
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/sbin/nft 'table ip ufw { chain input { type filter hook input priority 0; tcp dport != 22 drop; }; }'
"""
"""Stands for the firewall of a provider's image: it leaves SSH open, and nothing else."""


def test_a_providers_firewall_does_not_shut_the_relays_ports(new_vps: NewVps, internet: Internet) -> None:
    site = parse_site(SITE_TEXT, "site.yaml")
    bootstrap = make_bootstrap(site.relays[0])
    vps = new_vps(user_data(site, bootstrap))
    units = vps.written / "usr/lib/systemd/system"
    (units / "multi-user.target.wants").mkdir(parents=True)
    (units / "ufw.service").write_text(_UFW)
    (units / "multi-user.target.wants/ufw.service").symlink_to("../ufw.service")
    vps.start()
    assert vps.cloud_init().status == "done", vps.log()
    make_relay(vps, _FIRST.address, bootstrap, internet, SETTINGS)
    for _ in range(2):
        wait_for(lambda: internet.router.reachable(PORTS, _FIRST.address) == PORTS, "the relay")
        assert vps.failed_units() == []
        vps.restart()
        assert vps.cloud_init().status == "done", vps.log()


def test_a_long_name_and_a_provider_without_ipv6(new_vps: NewVps, internet: Internet) -> None:
    site = parse_site(SITE_TEXT.replace("example.com", _DOMAIN), "site.yaml")
    name = f"mx.{_DOMAIN}"
    assert len(name) > 64, "more than a host name in Linux or a common name in a certificate may have"
    bootstrap = make_bootstrap(site.relays[0])
    text = user_data(site, bootstrap)
    vps = new_vps(text)
    cable = _SECOND.interface("eth0")
    vps.reseed(Seed(text, interfaces=[type(cable)("eth0", cable.addresses[:1], cable.gateways[:1])]))
    vps.network.run("sysctl", "--write", *(f"net.ipv6.conf.{which}.disable_ipv6=1" for which in ("all", "default")))
    vps.start()
    result = vps.cloud_init()
    assert (result.status, result.errors) == ("done", []), vps.log()
    assert vps.failed_units() == []
    assert "inet6 fd" in vps.run("ip", "-6", "address", "show", "dev", "home0")
    make_relay(vps, _SECOND.address, bootstrap, internet, replace(SETTINGS, name=name), 51)
    wait_for(lambda: internet.router.reachable(PORTS, _SECOND.address) == PORTS, "the relay")
    certificate = vps.run("openssl", "x509", "-noout", "-ext", "subjectAltName", "-in", f"/etc/postfix/{name}.pem")
    assert f"DNS:{name}" in certificate
