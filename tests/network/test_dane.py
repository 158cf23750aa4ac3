"""Mail to a domain whose DNS says by which key its server is known (DANE, RFC 7672): it goes there, or it waits."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dns.dnssec
import dns.dnssectypes
import dns.name
import dns.rdatatype
import dns.rrset
import dns.zone
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.machine.machine import Machine, wait_for
from tests.network.conftest import know, scratch_folder
from tests.network.net import Namespace
from tests.network.postfix import POSTFIX_MASTER, running_postfix

_DOMAIN, _SERVER, _ADDRESS = "recipient.example", "mx.recipient.example", "203.0.113.25"

_MAIN = f"""\
compatibility_level = 3.10
myhostname = {_SERVER}
mydestination =
local_recipient_maps =
alias_maps =
alias_database =
mynetworks =
inet_interfaces = {_ADDRESS}
relay_domains = {_DOMAIN}
relay_transport = discard:
smtpd_peername_lookup = no
smtpd_tls_security_level = may
smtpd_tls_chain_files = /etc/postfix/{_SERVER}.pem
smtpd_tls_loglevel = 1
"""


@dataclass(frozen=True)
class Server:
    """The recipient's mail server, a Postfix that throws away what it takes.

    Args:
        key: SHA-256 of its public key, as TLSA 3 1 1 has it (RFC 6698 §2.1).
        log: what it has logged.
    """

    place: Namespace
    system: Path
    key: str
    log: Path

    def offer_tls(self, level: str) -> None:
        """Set `smtpd_tls_security_level` (postconf(5))."""
        for command in (("postconf", f"smtpd_tls_security_level={level}"), ("postfix", "reload")):
            self.place.run("chroot", str(self.system), *command)


@pytest.fixture(scope="module")
def server(world: Namespace, root: Path) -> Iterator[Server]:
    world.run("ip", "address", "replace", f"{_ADDRESS}/24", "dev", "relay")
    with scratch_folder() as scratch:
        (settings := scratch / "settings").mkdir()
        (settings / "main.cf").write_text(_MAIN)
        (settings / "master.cf").write_text(POSTFIX_MASTER.format(doors="25 inet n - n - - smtpd"))
        log, folder = scratch / "log", scratch / "postfix"
        with running_postfix(world, settings, _SERVER, root, folder, log):
            wait_for(lambda: world.reachable([25], _ADDRESS) == {25}, "the recipient's server")
            pem = world.run("openssl", "x509", "-in", str(folder / f"system/etc/postfix/{_SERVER}.pem"))
            public = x509.load_pem_x509_certificate(pem.encode()).public_key()
            der = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
            yield Server(world, folder / "system", hashlib.sha256(der).hexdigest(), log)


def _publish(home: Machine, key: str) -> None:
    """Let home's unbound have the domain's zone, signed, and know the key that signs it; else it knows nobody."""
    text = f"""\
@ 3600 IN SOA ns.{_DOMAIN}. hostmaster.{_DOMAIN}. 1 7200 3600 86400 300
@ 3600 IN NS ns.{_DOMAIN}.
@ 3600 IN MX 10 {_SERVER}.
ns 3600 IN A {_ADDRESS}
mx 3600 IN A {_ADDRESS}
_25._tcp.mx 3600 IN TLSA 3 1 1 {key}
"""
    zone = dns.zone.from_text(text, origin=f"{_DOMAIN}.", relativize=False)
    private = ec.generate_private_key(ec.SECP256R1())
    public = dns.dnssec.make_dnskey(private.public_key(), dns.dnssectypes.Algorithm.ECDSAP256SHA256, flags=257)
    now = datetime.now(UTC)
    dns.dnssec.sign_zone(
        zone, keys=[(private, public)], inception=now - timedelta(hours=1), expiration=now + timedelta(days=1)
    )
    path = "/data/darkpipe/config/current/unbound/recipient.zone"
    home.run("tee", path, stdin=zone.to_text(relativize=False).encode())
    know(
        home,
        f'local-zone: "{_DOMAIN}." transparent',
        f'trust-anchor: "{_DOMAIN}. DNSKEY {public.to_text()}"',
        f'auth-zone:\n  name: "{_DOMAIN}"\n  zonefile: "{path}"',
        "  for-downstream: no\n  for-upstream: yes\n  fallback-enabled: no",
    )
    home.run("systemctl", "restart", "postfix")


def _send(home: Machine) -> str:
    """Send a message; gives its queue id when Postfix has tried to deliver it."""
    subject = f"dane {uuid.uuid4()}"
    text = f"Subject: {subject}\n\nhello\n".encode()
    before = len(_tries(home))
    home.run("sendmail", "-f", "alice@example.com", f"friend@{_DOMAIN}", stdin=text)
    wait_for(lambda: len(_tries(home)) > before, "Postfix has tried")
    return _tries(home)[-1]


def _tries(home: Machine) -> list[str]:
    lines = home.run("journalctl", "--boot", "--no-pager", "--output=cat", "--unit=postfix").splitlines()
    return [line for line in lines if f"to=<friend@{_DOMAIN}>" in line and "status=" in line]


def test_a_server_with_the_key_of_its_dns_is_verified(home: Machine, server: Server) -> None:
    _publish(home, server.key)
    assert "status=sent" in _send(home)
    said = home.run("journalctl", "--boot", "--no-pager", "--output=cat", "--unit=postfix")
    assert f"Verified TLS connection established to {_SERVER}[{_ADDRESS}]:25" in said


def test_to_a_server_with_another_key_nothing_is_sent(home: Machine, server: Server) -> None:
    _publish(home, hashlib.sha256(server.key.encode()).hexdigest())
    tried = _send(home)
    assert "status=deferred" in tried
    assert "certificate" in tried.lower()


def test_to_a_server_that_lost_its_tls_on_the_way_nothing_is_sent(home: Machine, server: Server) -> None:
    server.offer_tls("none")
    try:
        _publish(home, server.key)
        tried = _send(home)
    finally:
        server.offer_tls("may")
    assert "status=deferred" in tried
    assert "TLS is required, but was not offered" in tried
