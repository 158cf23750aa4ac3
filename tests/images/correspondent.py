"""Somebody else's mail server in the Internet of the tests, a Postfix that sends and takes mail, and the DNS of all."""

from __future__ import annotations

import re
import smtplib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from home.block_lists import BLOCK_LISTS
from tests.machine.machine import wait_for
from tests.network.greeter import greeter
from tests.network.names import DOMAIN, ROOT, SERVERS, names, reload_zone, zone
from tests.network.net import Namespace
from tests.network.postfix import POSTFIX_MASTER, running_postfix

FRIEND = "carol@friend.example"
NAME = "mx.friend.example"
ADDRESS = "198.51.100.25"
"""Where it takes mail."""

SOURCE = "192.168.77.9"
"""Where it sends from; familiar to home's rspamd, so that nothing has to be sent twice."""

_PROVIDER = "198.51.100.26"
"""Of a large provider's mail server, which the pre-flight calls."""

_MAIN = f"""\
compatibility_level = 3.10
myhostname = {NAME}
mydestination =
alias_maps =
alias_database =
mynetworks = 127.0.0.0/8
smtpd_relay_restrictions = permit_mynetworks, reject_unauth_destination
inet_protocols = ipv4
smtp_bind_address = {SOURCE}
smtp_tls_security_level = encrypt
smtp_tls_loglevel = 1
smtpd_tls_security_level = may
smtpd_tls_chain_files = /etc/postfix/{NAME}.pem
smtpd_peername_lookup = no
minimal_backoff_time = 20s
maximal_backoff_time = 20s
queue_run_delay = 20s
virtual_mailbox_domains = friend.example
virtual_mailbox_base = /srv/mail
virtual_mailbox_maps = static:all/
virtual_uid_maps = static:65534
virtual_gid_maps = static:65534
"""
_DOORS = f"""\
{ADDRESS}:25 inet n - n - - smtpd
127.0.0.1:2525 inet n - n - - smtpd
virtual unix - n n - - virtual"""

_OTHERS = (
    "friend.example. IN MX 10 mx.friend.example.\n"
    f"mx.friend.example. IN A {ADDRESS}\n"
    f'friend.example. IN TXT "v=spf1 ip4:{SOURCE} -all"\n'
    "gmail.com. IN MX 10 mx.provider.example.\n"
    f"mx.provider.example. IN A {_PROVIDER}\n"
    + "".join(f"2.0.0.127.{each.zone}. IN A 127.0.0.2\n" for each in BLOCK_LISTS)
)
"""Of the correspondent and a large provider, in the root itself; block lists have nobody."""

_USE = """\
file=$(readlink -m "$2/etc/resolv.conf")
case $file in "$2"/*) ;; *) file=$2$file ;; esac
mkdir -p "${file%/*}" && touch "$file" && echo nameserver 127.0.0.1 >"$1" && mount --bind "$1" "$file"
"""
"""A link in a system may lead out of it."""


@dataclass
class Correspondent:
    """The mail server.

    Args:
        place: its network, where the name servers are as well.
        mail: folder of its Maildir.
        log: what it has logged.
        dns: folder of the name servers.
        zones: names of the zones that they have.
    """

    place: Namespace
    mail: Path
    log: Path
    dns: Path
    zones: Sequence[str]

    def send(self, recipient: str, message: bytes) -> None:
        """Have it send a message; it looks the way up in DNS, and tries again by itself."""
        with self.place.call(smtplib.SMTP, "127.0.0.1", 2525, "localhost", 60) as session:
            session.sendmail(FRIEND, recipient, message)

    def all(self) -> list[bytes]:
        """Give all messages that have arrived."""
        return [path.read_bytes() for path in sorted((self.mail / "new").glob("*"))]

    def received(self, subject: str) -> list[bytes]:
        """Give the messages with a subject that have arrived."""
        return [octets for octets in self.all() if f"\nSubject: {subject}\n".encode() in octets]

    def deliveries(self, recipient: str) -> int:
        """Count the messages to somebody that other servers have taken from it."""
        taken = re.compile(rf"to=<{re.escape(recipient)}>, relay=\S+, .* status=sent ")
        return len(taken.findall(self.log.read_text()))

    def publish(self, zones: Mapping[str, str]) -> None:
        """Let both name servers have other records of zones."""
        for number, name in enumerate(self.zones):
            for address in SERVERS.values():
                reload_zone(self.dns, address, zone(zones.get(name, ""), 2), number)

    def sender_is_allowed(self, client: str, sender: str) -> bool:
        """Ask an independent judge whether SPF lets a client send for somebody: pyspf, as Debian has it."""
        judge = "import sys, spf; print(spf.check2(*sys.argv[1:])[0])"
        said = self.place.run("/usr/bin/python3", "-c", judge, client, sender, NAME)
        return said.strip() == "pass"


@contextmanager
def correspondent(place: Namespace, root: Path, scratch: Path, zones: Sequence[str]) -> Iterator[Correspondent]:
    """Run it.

    Args:
        place: the network, which is given the addresses that this needs.
        root: a system with Postfix and unbound.
        scratch: a folder on a disk.
        zones: names of zones that are delegated here; nothing stands in them yet.
    """
    empty = {name: zone("") for name in zones}
    delegations = "".join(f"{name}. IN NS {server}.\n" for name in zones if name != DOMAIN for server in SERVERS)
    with ExitStack() as stack:
        for address in (ADDRESS, SOURCE, _PROVIDER, ROOT, *SERVERS.values()):
            place.add_address(address)
        stack.enter_context(greeter(place, _PROVIDER))
        (dns := scratch / "dns").mkdir()
        stack.enter_context(names(place, root, dns, empty, empty, more_root=_OTHERS + delegations))
        (settings := scratch / "settings").mkdir()
        (settings / "main.cf").write_text(_MAIN)
        (settings / "master.cf").write_text(POSTFIX_MASTER.format(doors=_DOORS))
        log, system = scratch / "log", scratch / "postfix/system"
        stack.enter_context(running_postfix(place, settings, NAME, root, scratch / "postfix", log))
        for folder in (str(system), ""):
            place.run("sh", "-c", _USE, "sh", str(scratch / "resolv.conf"), folder)
        place.run("chroot", str(system), "install", "-d", "-o", "65534", "-g", "65534", "/srv/mail")
        wait_for(lambda: place.can_connect(25, ADDRESS), "the correspondent's mail server")
        yield Correspondent(place, scratch / "postfix/upper/srv/mail/all", log, dns, zones)
