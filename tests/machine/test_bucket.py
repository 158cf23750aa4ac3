"""`darkpipe relay recover-bucket`, as it is on the device, with a real S3 server behind TLS."""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import pyrage
import pytest

from home.queue_keys import IDENTITIES
from home.s3_settings import SEAL
from model.s3 import Mode, S3Settings
from model.s3_objects import Objects, open_store
from relay.s3 import S3Place
from relay.spool import Spool
from tests import mail
from tests.drain import HOME, envelope
from tests.machine.conftest import PASSWORD, SEED
from tests.machine.machine import CLIENT_ADDRESS, HOME_ADDRESS, Client, Machine, wait_for
from tests.machine.relay import RELAY as RELAY_ADDRESS
from tests.s3.server import ACCESS_KEY, BUCKET, SECRET_KEY, Server, running_server

_NAME, _PORT, _PREFIX = "store.example.net", 8443, "relay/"
_S3 = (
    f"{{endpoint: 'https://{_NAME}:{_PORT}', bucket: {BUCKET}, access_key: {ACCESS_KEY}, mode: write-through, "
    f"prefix: '{_PREFIX}'}}"
)
_UNBOUND = "/data/darkpipe/config/current/unbound/unbound.conf"
_NAMES = f"""
server:
    local-zone: "{_NAME}." static
    local-data: "{_NAME}. IN A {CLIENT_ADDRESS}"
"""
_TRUSTED = "/etc/ssl/certs/ca-certificates.crt"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running_server(tmp_path_factory.mktemp("s3")) as running:
        yield running


@pytest.fixture(scope="module")
def home(new_machine: Callable[[str], Machine]) -> Iterator[Machine]:
    """A device whose relay has a bucket, and cannot be reached."""
    machine = new_machine(f"{SEED}relays: [{{address: {RELAY_ADDRESS}, s3: {_S3}}}]\n").start()
    machine.run("tee", "-a", _UNBOUND, stdin=_NAMES.encode())
    machine.run("systemctl", "restart", "unbound")
    yield machine
    machine.stop()


@pytest.fixture(scope="module")
def lan(home: Machine) -> Iterator[Client]:
    with home.lan() as client:
        yield client


def _keep(server: Server, seal: str, messages: list[bytes]) -> None:
    """Do what a relay does that dies then."""
    settings = S3Settings(
        server.endpoint, BUCKET, ACCESS_KEY, SECRET_KEY, seal, Mode.WRITE_THROUGH, prefix=_PREFIX, budget=10**9
    )
    with tempfile.TemporaryDirectory() as folder:
        spool = Spool(Path(folder), [str(HOME.to_public())], 10**9)
        place = S3Place(settings, Path(folder), spool.epoch, objects=Objects(open_store(settings), settings.prefix))
        spool.use([str(HOME.to_public())], 10**9, place)
        place.start([])
        wait_for(lambda: place.has_room(0), "the bucket")
        for message in messages:
            with spool.room(len(message)) as room:
                spool.store(envelope("alice@example.com"), BytesIO(message), room)
        place.stop()


@contextmanager
def _behind_tls(server: Server, lan: Client, folder: Path) -> Iterator[bytes]:
    """Show the server by TLS in the device's network; gives the certificate."""
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-days", "2", "-subj", f"/CN={_NAME}", "-addext", f"subjectAltName=DNS:{_NAME}"]
    command += ["-addext", "basicConstraints=critical,CA:FALSE", "-keyout", "key.pem", "-out", "certificate.pem"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(folder / "certificate.pem", folder / "key.pem")
    listener = lan.call(socket.create_server, (CLIENT_ADDRESS, _PORT))

    def serve() -> None:
        while True:
            try:
                plain, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=_pass_on, args=(context, plain, server.port), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield (folder / "certificate.pem").read_bytes()
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def _pass_on(context: ssl.SSLContext, plain: socket.socket, port: int) -> None:
    with suppress(OSError), context.wrap_socket(plain, server_side=True) as near:  # noqa: SIM117  (one may fail)
        with socket.create_connection(("127.0.0.1", port)) as far:
            back = threading.Thread(target=_pump, args=(far, near), daemon=True)
            back.start()
            _pump(near, far)
            back.join()


def _pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while octets := source.recv(65_536):
            target.sendall(octets)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)


def _recover(home: Machine, *options: str) -> Any:
    return json.loads(home.run("darkpipe", "relay", "recover-bucket", "--json", *options, check=False))


def test_what_a_lost_relay_has_left_in_its_bucket_comes_home(
    home: Machine, lan: Client, server: Server, tmp_path: Path
) -> None:
    messages = [b"From: a@example.net\r\nSubject: left-%d\r\n\r\n%s\r\n" % (n, b"x" * 400_000) for n in range(3)]
    home.run("darkpipe", "relay", "s3-key", stdin=f"{SECRET_KEY}\n".encode())
    seal = str(pyrage.x25519.Identity.generate())
    home.run("install", "-d", "-m", "0700", "/data/pairing")
    home.run("tee", f"/data/pairing/{SEAL}", stdin=f"{seal}\n".encode())
    (home.data / "queue-keys" / IDENTITIES).write_text(f"{HOME}\n")
    _keep(server, seal, messages)
    with _behind_tls(server, lan, tmp_path) as certificate:
        untrusted = _recover(home)
        assert untrusted["stopped"] or untrusted["problems"], untrusted
        trusted = home.run("cat", _TRUSTED).encode() + certificate
        home.run("tee", "/run/trusted.pem", stdin=trusted)
        home.run("mount", "--bind", "/run/trusted.pem", _TRUSTED)
        found = _recover(home, "--relay-is-gone")
        assert (found["stopped"], found["problems"]) == ("", [])
        (folder,) = found["folders"]
        assert (folder["had"], folder["missing"], folder["left"], folder["problems"]) == (3, 0, 0, [])
        again = _recover(home, "--relay-is-gone")
        assert (again["stopped"], again["folders"]) == ("", [])
        text = home.run("darkpipe", "relay", "recover-bucket")
        assert "No relay has left anything in the bucket." in text
    mailbox = lan.call(mail.mailbox, 993, "alice@example.com", PASSWORD, host=HOME_ADDRESS)
    try:
        for number, message in enumerate(messages):
            # A message without a date looks like spam, and is marked below its fields.
            received = mail.fetch(mailbox, f"left-{number}").replace(b"X-Spam: Yes\r\n", b"", 1)
            assert received.endswith(message), received[:2000]
    finally:
        mailbox.logout()
    # While it is activating, the exit status is 3.
    assert home.run("systemctl", "is-active", "darkpipe-drain", check=False).strip() in {"active", "activating"}
    journal = home.run("journalctl", "-b", "-o", "cat")
    assert SECRET_KEY not in journal
    assert seal not in journal
