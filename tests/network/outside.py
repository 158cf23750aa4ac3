"""The world that a relay writes to: a mail server that keeps what it gets, a webhook, and a DNS that knows both."""

from __future__ import annotations

import email.message
import email.policy
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from email.parser import BytesParser
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

from tests.machine.machine import wait_for
from tests.network.net import Namespace
from tests.network.postfix import POSTFIX_MASTER, running_postfix

SENDER = "203.0.113.77"
"""The one client that sender.example and owner.example let send (SPF)."""

RELAY_ADDRESS, _MAIL, _HOOK = "11.0.0.1", "11.0.0.25", "11.0.0.44"
"""Of networks that are no documentation's, since a relay takes no other for servers of the Internet."""

HOOK_NAME = "hook.example"
_SERVER = "mx.sender.example"

_MAIN = f"""\
compatibility_level = 3.10
myhostname = {_SERVER}
mydestination =
mynetworks =
inet_interfaces = {_MAIL}
virtual_mailbox_domains = sender.example, owner.example
virtual_mailbox_base = /srv/mail
virtual_mailbox_maps = static:all/
virtual_uid_maps = static:65534
virtual_gid_maps = static:65534
virtual_alias_maps =
smtputf8_enable = yes
smtpd_peername_lookup = no
smtpd_tls_security_level = encrypt
smtpd_tls_received_header = yes
smtpd_tls_chain_files = /etc/postfix/{_SERVER}.pem
"""

_UNBOUND = f"""\
server:
    interface: 127.0.0.1
    username: ""
    chroot: ""
    pidfile: ""
    use-syslog: no
    directory: "/mnt"
    module-config: "iterator"
    local-zone: "." static
    local-data: "sender.example. IN MX 10 {_SERVER}."
    local-data: "owner.example. IN MX 10 {_SERVER}."
    local-data: "{_SERVER}. IN A {_MAIL}"
    local-data: "{HOOK_NAME}. IN A {_HOOK}"
    local-data: 'sender.example. IN TXT "v=spf1 ip4:{SENDER} -all"'
remote-control:
    control-enable: no
"""

_USE = 'file=$(readlink -m /etc/resolv.conf) && mkdir -p "${file%/*}" && touch "$file" && mount --bind "$1" "$file"'


@dataclass
class Outside:
    """What has arrived there.

    Args:
        mail: folder of a Maildir.
        certificate: of the webhook's server, to be trusted.
        posted: what the webhook has got.
    """

    mail: Path
    certificate: Path
    posted: list[bytes] = field(default_factory=list)

    def letters(self) -> list[email.message.EmailMessage]:
        """Give the mail that has arrived, in any order."""
        parser = BytesParser(policy=email.policy.default)
        return [parser.parsebytes(octets) for octets in self.octets()]

    def octets(self) -> list[bytes]:
        """Give it as it stands in the files."""
        return [path.read_bytes() for path in sorted((self.mail / "new").glob("*"))]

    def forget(self) -> None:
        """Forget all of it."""
        self.posted.clear()
        for path in (self.mail / "new").glob("*"):
            path.unlink()


@contextmanager
def outside(relay: Namespace, place: Namespace, root: Path, scratch: Path) -> Iterator[Outside]:
    """Run these servers in a network that is joined to the relay's, and let the relay ask the DNS.

    Args:
        root: a system with Postfix and unbound.
        scratch: a folder on a disk.
    """
    with ExitStack() as stack:
        stack.enter_context(_resolver(relay, root, scratch / "dns"))
        made = Outside(scratch / "postfix/upper/srv/mail/all", scratch / "hook.pem.crt")
        _make_certificate(place, scratch / "hook.pem")
        stack.enter_context(_webhook(place, scratch / "hook.pem", made))
        (settings := scratch / "settings").mkdir()
        (settings / "main.cf").write_text(_MAIN)
        doors = "25 inet n - n - - smtpd\nvirtual unix - n n - - virtual"
        (settings / "master.cf").write_text(POSTFIX_MASTER.format(doors=doors))
        stack.enter_context(running_postfix(place, settings, _SERVER, root, scratch / "postfix", scratch / "log"))
        inside = str(scratch / "postfix/system")
        place.run("chroot", inside, "install", "-d", "-o", "65534", "-g", "65534", "/srv/mail")
        wait_for(lambda: relay.reachable([25], _MAIL) == {25}, "the mail server outside")
        yield made


@contextmanager
def _resolver(relay: Namespace, root: Path, folder: Path) -> Iterator[None]:
    folder.mkdir()
    (folder / "unbound.conf").write_text(_UNBOUND)
    (folder / "resolv.conf").write_text("nameserver 127.0.0.1\n")
    relay.run("sh", "-c", _USE, "sh", str(folder / "resolv.conf"))
    relay.run("mount", "--bind", str(folder), str(root / "mnt"))
    with relay.running("chroot", str(root), "unbound", "-d", "-c", "/mnt/unbound.conf"):
        wait_for(lambda: relay.reachable([53], "127.0.0.1") == {53}, "the resolver")
        yield


def _make_certificate(place: Namespace, path: Path) -> None:
    """Make one that is its own authority, as strictly as Python asks for since 3.13."""
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    names = ["-subj", f"/CN={HOOK_NAME}", "-addext", f"subjectAltName=DNS:{HOOK_NAME}"]
    use = ["-addext", "keyUsage=critical,digitalSignature,keyCertSign"]
    place.run("openssl", "req", "-x509", *key, "-days", "30", *names, *use, "-keyout", str(path), "-out", f"{path}.crt")


@contextmanager
def _webhook(place: Namespace, key: Path, made: Outside) -> Iterator[None]:
    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            made.posted.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    class Server(HTTPServer):
        def handle_error(self, *_: object) -> None:
            """A client that does not trust it hangs up, which is a test's matter."""

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(f"{key}.crt", key)
    server = Server((_HOOK, 443), Hook, bind_and_activate=False)
    server.socket.close()
    listener: socket.socket = place.call(socket.create_server, (_HOOK, 443))
    server.socket = context.wrap_socket(listener, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.1,))
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        with suppress(OSError):
            server.server_close()
