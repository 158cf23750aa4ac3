"""The control plane from both ends, over sockets: who gets an answer, and what for."""

from __future__ import annotations

import hashlib
import io
import os
import socket
import ssl
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from http import HTTPStatus
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

import home.control_client
import relay.control_request
import relay.control_server
from home.control_client import ControlClient, Home
from home.control_errors import (
    Apart,
    ControlFailure,
    Fenced,
    Garbled,
    NotAccepted,
    OtherRelay,
    Refused,
    Unreachable,
    WrongCertificate,
)
from model.control import ControlError, Problem
from model.control_tls import CertificateError, Pins, certificate_command, certificate_of, check_certificates
from relay.control import Handler, Request, Response
from relay.control_server import MOST, ControlServer
from relay.fence import Identity

_HOME, _RELAY = "1" * 32, "2" * 32
_US = Home(_HOME, 3, _RELAY)


def _make(folder: Path, name: str) -> tuple[Path, str]:
    """Make a key; give its file, and its certificate."""
    done = subprocess.run(certificate_command(name), capture_output=True, text=True, check=True)
    path = folder / f"{name}.pem"
    path.write_text(done.stdout)
    return path, certificate_of(done.stdout)


@dataclass
class Keys:
    """Keys of home, of the relay, and of somebody else."""

    home: tuple[Path, str]
    relay: tuple[Path, str]
    other: tuple[Path, str]


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    folder = tmp_path_factory.mktemp("keys")
    return Keys(*(_make(folder, name) for name in ("home", "relay", "other")))


@dataclass
class Listener:
    """A listener of a relay, and what it has been asked for."""

    server: ControlServer
    asked: list[Request]
    identity: Identity

    def client(self, keys: Keys, us: Home = _US, own: Path | None = None, others: str = "") -> ControlClient:
        pins = Pins(own or keys.home[0], others or keys.relay[1], server=False)
        return ControlClient(self.server.address, us, pins)


@contextmanager
def _relay(keys: Keys | None, handler: Handler, *, newer: bool = False, most: int = MOST) -> Iterator[Listener]:
    asked: list[Request] = []

    def handle(request: Request) -> Response:
        asked.append(request)
        return handler(request)

    pins = Pins(keys.relay[0], keys.home[1], server=True) if keys else None
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = ControlServer(listener, lambda: pins, lambda: made.identity, handle, newer=newer, most=most)
        made = Listener(server, asked, Identity(_RELAY, _HOME, 3))
        serving = threading.Thread(target=server.serve)
        serving.start()
        try:
            yield made
        finally:
            server.stop()
            serving.join(10)
            assert not serving.is_alive()


def _hash(request: Request) -> Response:
    digest, count = hashlib.sha256(), 0
    while piece := request.body.read(1000):
        digest.update(piece)
        count += len(piece)
    return Response.of(Problem(f"{request.method} {request.path} {dict(request.query)} {count} {digest.hexdigest()}"))


def test_home_is_answered_and_a_connection_serves_many_requests(keys: Keys) -> None:
    with _relay(keys, _hash) as relay, relay.client(keys) as client:
        empty = hashlib.sha256().hexdigest()
        for number in range(3):
            answer = client.request("GET", f"/items?after={number}&more=%20")
            assert answer.message(Problem).problem == f"GET /items {{'after': '{number}', 'more': ' '}} 0 {empty}"
            assert client.send("PUT", "/x", Problem("y")).status == 200
        assert [one.home_epoch for one in relay.asked] == [3] * 6


def test_nobody_waits_for_an_acknowledgement_that_the_kernel_delays(keys: Keys, tmp_path: Path) -> None:
    path = tmp_path / "item"
    path.write_bytes(os.urandom(5_000))
    spent = []
    with _relay(keys, lambda _: Response(HTTPStatus.OK, path)) as relay, relay.client(keys) as client:
        for _ in range(30):
            began = time.monotonic()
            client.download("/items/x", io.BytesIO(), 5_000)
            spent.append(time.monotonic() - began)
    assert statistics.median(spent) < 0.035, "Linux delays it by 40 ms"


def test_large_bodies_are_streamed_in_both_directions(keys: Keys, tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.write_bytes(os.urandom(5_000_000))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()

    def handle(request: Request) -> Response:
        return Response(200, path) if request.method == "GET" else _hash(request)

    with _relay(keys, handle) as relay, relay.client(keys) as client:
        with path.open("rb") as file:
            assert f"5000000 {digest}" in client.request("PUT", "/bundle", file).message(Problem).problem
        taken = io.BytesIO()
        assert client.download("/items/1", taken, 5_000_000).length == 5_000_000
        assert taken.getvalue() == path.read_bytes()
        with pytest.raises(Garbled, match="expected 4999999 at most"):
            client.download("/items/1", io.BytesIO(), 4_999_999)


def test_pieces_that_end_early_are_no_whole_item(keys: Keys) -> None:
    def pieces() -> Iterator[bytes]:
        yield b"half"
        raise ValueError("the store has gone")

    def handle(_: Request) -> Response:
        return Response(200, pieces(), {"Content-Length": "8"})

    with _relay(keys, handle) as relay, relay.client(keys) as client, pytest.raises(Unreachable, match="hung up"):
        client.download("/items/1", io.BytesIO(), 100)


def test_a_file_that_has_gone_is_a_refusal_and_the_connection_goes_on(keys: Keys, tmp_path: Path) -> None:
    with _relay(keys, lambda _: Response(200, tmp_path / "gone")) as relay, relay.client(keys) as client:
        for _ in range(2):
            with pytest.raises(Refused, match="not there any more"):
                client.download("/items/1", io.BytesIO(), 10)


def test_a_body_that_nobody_reads_does_not_become_the_next_request(keys: Keys) -> None:
    with _relay(keys, lambda _: Response.refuse(422, "no")) as relay, relay.client(keys) as client:
        for _ in range(2):
            with pytest.raises(Refused, match="no"):
                client.request("PUT", "/settings", b"GET /second HTTP/1.1\r\n\r\n" * 20_000)
        assert [one.path for one in relay.asked] == ["/settings"] * 2


def test_a_fault_of_a_handler_is_told_in_the_log_only(keys: Keys, capfd: pytest.CaptureFixture[str]) -> None:
    def fail(_: Request) -> Response:
        raise RuntimeError("the inside of the relay")

    with _relay(keys, fail) as relay, relay.client(keys) as client:
        with pytest.raises(Refused) as refused:
            client.request("GET", "/state")
        assert refused.value.status == 500
        assert "inside" not in str(refused.value)
    assert "GET /state: RuntimeError: the inside of the relay" in capfd.readouterr().err


def test_a_message_that_is_none_is_the_askers_fault(keys: Keys) -> None:
    with _relay(keys, lambda request: Response.of(request.message(Problem))) as relay, relay.client(keys) as client:
        for body in (b"", b"[]", b"\xff", b'{"other":1}', b"[" * 100_000):
            with pytest.raises(Refused) as refused:
                client.request("PUT", "/settings", body)
            assert refused.value.status == 400


# Who may speak.


def test_somebody_in_the_tunnel_without_a_key_gets_nothing(keys: Keys) -> None:
    with _relay(keys, _hash) as relay:
        with socket.create_connection(relay.server.address) as plain:
            plain.sendall(b"GET /state HTTP/1.1\r\nHost: relay\r\n\r\n")
            assert b"HTTP" not in _rest(plain)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with socket.create_connection(relay.server.address) as plain, context.wrap_socket(plain) as connection:
            connection.sendall(b"GET /state HTTP/1.1\r\nHost: relay\r\n\r\n")
            with pytest.raises(ssl.SSLError, match=r"(?i)certificate.required"):
                connection.recv(1)
        assert not relay.asked


def test_a_home_with_another_key_is_told_so(keys: Keys) -> None:
    with _relay(keys, _hash) as relay, relay.client(keys, own=keys.other[0]) as client:
        with pytest.raises(NotAccepted, match="darkpipe pair --again"):
            client.request("GET", "/state")
        assert not relay.asked


def test_a_relay_with_another_key_gets_nothing(keys: Keys) -> None:
    with _relay(keys, _hash) as relay, relay.client(keys, others=keys.other[1]) as client:
        with pytest.raises(WrongCertificate, match="not the relay that home was paired with"):
            client.request("PUT", "/settings", b"secret")
        assert not relay.asked


def test_what_a_pinned_key_vouches_for_is_not_pinned(keys: Keys, tmp_path: Path) -> None:
    """OpenSSL takes a pinned certificate for an authority if that is what it is; we take none for one."""
    authority, theirs = tmp_path / "authority.pem", tmp_path / "theirs.pem"
    command = [word.replace("CA:FALSE", "CA:TRUE") for word in certificate_command("authority")]
    command[command.index("keyUsage=critical,digitalSignature")] += ",keyCertSign"
    made = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    authority.write_text(made)
    issue = (
        "openssl",
        "x509",
        "-req",
        "-CA",
        authority,
        "-CAkey",
        authority,
        "-CAcreateserial",
        "-in",
        tmp_path / "csr",
    )
    key = ("openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc", "-subj", "/CN=x")
    subprocess.run([*key, "-keyout", theirs, "-out", tmp_path / "csr"], check=True, capture_output=True)
    issued = subprocess.run(issue, capture_output=True, text=True, check=True).stdout
    theirs.write_text(theirs.read_text() + issued)
    pins = Pins(keys.relay[0], certificate_of(made), server=True)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = ControlServer(listener, lambda: pins, lambda: Identity(_RELAY, _HOME, 3), _hash)
        serving = threading.Thread(target=server.serve)
        serving.start()
        with ControlClient(server.address, _US, Pins(authority, keys.relay[1], server=False)) as client:
            assert client.request("GET", "/state").status == 200
        stranger = ControlClient(server.address, _US, Pins(theirs, keys.relay[1], server=False))
        with pytest.raises(Unreachable):
            stranger.request("GET", "/state")
        server.stop()
        serving.join(10)


def test_two_certificates_hold_while_one_follows_the_other(keys: Keys) -> None:
    both = keys.home[1] + keys.other[1]
    with _relay(keys, _hash) as relay:
        relay.server._admit = lambda: Pins(keys.relay[0], both, server=True)
        for own in (keys.home[0], keys.other[0]):
            with relay.client(keys, own=own, others=keys.relay[1]) as client:
                assert client.request("GET", "/state").status == 200
        relay.server._admit = lambda: Pins(keys.relay[0], keys.other[1], server=True)
        with relay.client(keys) as client, pytest.raises(NotAccepted):
            client.request("GET", "/state")


def test_a_clock_that_is_wrong_shuts_nobody_out(keys: Keys, tmp_path: Path) -> None:
    """With what OpenSSL does by itself, a device that thinks it is 1970 could not speak with its relay."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "old")])
    built = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    dated = built.not_valid_before(datetime(1990, 1, 1, tzinfo=UTC)).not_valid_after(datetime(1991, 1, 1, tzinfo=UTC))
    certificate = dated.sign(key, SHA256()).public_bytes(Encoding.PEM).decode()
    made = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode() + certificate
    (tmp_path / "old.pem").write_text(made)
    with _relay(keys, _hash) as relay:
        relay.server._admit = lambda: Pins(keys.relay[0], certificate, server=True)
        with relay.client(keys, own=tmp_path / "old.pem") as client:
            assert client.request("GET", "/state").status == 200


@pytest.mark.parametrize("text", ["", "x", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_what_is_no_certificate_is_not_pinned(text: str, keys: Keys) -> None:
    with pytest.raises(CertificateError):
        check_certificates(text)
    for bad in (keys.home[1] * 3, keys.home[1] + "x", keys.home[0].read_text()):
        with pytest.raises(CertificateError):
            check_certificates(bad)
    with pytest.raises(CertificateError, match=r"expected one"):
        certificate_of(keys.home[1] * 2)


# Versions and fences.


@pytest.mark.parametrize(("theirs", "served"), [(0, True), (1, True), (2, True), (3, False)])
def test_an_older_and_a_newer_home_is_served_one_version_apart(
    theirs: int, served: bool, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(home.control_client, "PROTOCOL", theirs)
    with _relay(keys, _hash) as relay, relay.client(keys) as client:
        if served:
            assert client.request("GET", "/state").status == 200
            return
        with pytest.raises(Apart) as apart:
            client.request("GET", "/state")
        assert "version 1 of the protocol" in str(apart.value)
        assert not relay.asked


def test_the_relay_says_which_of_two_is_too_old(keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    for ours, remedy in ((5, "Bring home up to date"), (-2, "Bring the relay up to date")):
        monkeypatch.setattr(relay.control_request, "PROTOCOL", ours)
        with _relay(keys, _hash) as place, place.client(keys) as client:
            with pytest.raises(Refused, match=remedy) as refused:
                client.request("GET", "/state")
            assert refused.value.status == 426
            assert not place.asked


def test_a_home_that_was_overtaken_is_fenced(keys: Keys) -> None:
    with _relay(keys, _hash) as relay:
        with relay.client(keys) as client:
            assert client.request("GET", "/items").status == 200
            # In the middle of a connection, too.
            relay.identity = Identity(_RELAY, _HOME, 4)
            with pytest.raises(Fenced, match="restored from its backup has epoch 4"):
                client.request("DELETE", "/items/1")
        assert [one.method for one in relay.asked] == ["GET"]


def test_a_home_of_whose_epoch_only_the_agent_knows_waits(keys: Keys) -> None:
    later = Home(_HOME, 4, _RELAY)
    with (
        _relay(keys, _hash) as queue,
        queue.client(keys, later) as client,
        pytest.raises(Fenced, match="not been told"),
    ):
        client.request("GET", "/items")
    with _relay(keys, _hash, newer=True) as agent, agent.client(keys, later) as client:
        assert client.request("PUT", "/fence").status == 200
        assert agent.asked[0].home_epoch == 4


def test_ids_are_those_of_pairing(keys: Keys) -> None:
    with _relay(keys, _hash) as relay:
        with relay.client(keys, Home("3" * 32, 3, _RELAY)) as client, pytest.raises(Refused, match="another home"):
            client.request("GET", "/state")
        with relay.client(keys, Home(_HOME, 3, "4" * 32)) as client, pytest.raises(OtherRelay, match="4444"):
            client.request("GET", "/state")


# Strangers, and the slow.


def test_the_slow_are_cut_off_and_the_others_served(keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay.control_server, "_HANDSHAKE", 0.3)
    monkeypatch.setattr(relay.control_server, "_HEAD", 0.5)
    with _relay(keys, _hash) as place:
        with socket.create_connection(place.server.address) as silent:
            assert _rest(silent) == b""
        slow = Pins(keys.home[0], keys.relay[1], server=False)
        with socket.create_connection(place.server.address) as plain, slow.context.wrap_socket(plain) as connection:
            began = time.monotonic()
            with pytest.raises(OSError):  # noqa: PT011  whichever the kernel gives
                _drip(connection, b"GET /state HTTP/1.1\r\nHost: relay\r\nX: " + b"x" * 200)
            assert time.monotonic() - began < 5
        with place.client(keys) as client:
            assert client.request("GET", "/state").status == 200


def test_more_than_there_is_room_for_are_sent_off(keys: Keys) -> None:
    with _relay(keys, _hash, most=2) as relay:
        held = [socket.create_connection(relay.server.address) for _ in range(2)]
        time.sleep(0.1)
        with relay.client(keys) as client, pytest.raises(Unreachable):
            client.request("GET", "/state")
        for one in held:
            one.close()
        time.sleep(0.1)
        with relay.client(keys) as client:
            assert client.request("GET", "/state").status == 200


def test_a_relay_that_drips_does_not_hold_home_up(keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(home.control_client, "_MESSAGE", 0.5)

    def pieces() -> Iterator[bytes]:
        for _ in range(300):
            yield b"x"
            time.sleep(0.02)

    with _relay(keys, lambda _: Response(200, pieces(), {"Content-Length": "300"})) as place:
        began = time.monotonic()
        with place.client(keys) as client, pytest.raises((Unreachable, Garbled)):
            client.request("GET", "/state")
        assert time.monotonic() - began < 3


def test_nobody_at_home_is_said_so(keys: Keys) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        place = listener.getsockname()
    client = ControlClient(place, _US, Pins(keys.home[0], keys.relay[1], server=False))
    with pytest.raises(Unreachable, match="Connection refused"):
        client.request("GET", "/state")


def test_a_connection_that_the_relay_has_ended_is_made_anew(keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay.control_server, "_BETWEEN", 0.2)
    with _relay(keys, _hash) as place, place.client(keys) as client:
        assert client.request("GET", "/state").status == 200
        time.sleep(0.5)
        assert client.send("PUT", "/x", Problem("y")).status == 200


@given(octets=st.binary(max_size=400) | st.lists(st.sampled_from(
    [b"GET", b"PUT", b" ", b"/", b"/x?a=1&a=2", b"HTTP/1.1", b"\r\n", b"\n", b":", b"Host: x", b"Content-Length: 5",
     b"Content-Length: 99999999999", b"Content-Length: -1", b"Transfer-Encoding: chunked", b"Expect: 100-continue",
     b"DarkPipe-Protocol: 1", b"DarkPipe-Home-Epoch: 3", b"DarkPipe-Home: " + _HOME.encode(), b"\0", b"0\r\n\r\n",
     b"DarkPipe-Protocol: \xb2", b"5\r\nhello\r\n", b"x" * 20_000]), max_size=20).map(b"".join))  # fmt: skip
@settings(max_examples=150, deadline=None)
def test_no_octets_stop_the_listener_and_no_garbage_reaches_the_handler(octets: bytes) -> None:
    with _plain_relay() as relay:
        for half_open in (False, True):
            with socket.create_connection(relay.server.address) as plain:
                plain.settimeout(5)
                try:
                    plain.sendall(octets)
                    if not half_open:
                        plain.shutdown(socket.SHUT_WR)
                        answer = _rest(plain)
                        assert answer == b"" or answer.startswith(b"HTTP/1.1 ")
                except OSError:  # it did not want to hear more
                    pass
        client = ControlClient(relay.server.address, _US, None)
        assert client.request("GET", "/state").status == 200
        client.close()


@given(octets=st.binary(max_size=600))
@settings(max_examples=60, deadline=None)
def test_no_octets_before_the_handshake_stop_the_listener(octets: bytes, keys: Keys) -> None:
    with _relay(keys, _hash) as relay:
        with socket.create_connection(relay.server.address) as plain:
            plain.settimeout(5)
            try:
                plain.sendall(octets)
                plain.shutdown(socket.SHUT_WR)
                assert b"HTTP" not in _rest(plain)
            except OSError:
                pass
        with relay.client(keys) as client:
            assert client.request("GET", "/state").status == 200


@given(octets=st.binary(max_size=300) | st.lists(st.sampled_from(
    [b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 100 Continue\r\n\r\n", b"DarkPipe-Protocol: 1\r\n", b"DarkPipe-Protocol: 9\r\n",
     b"DarkPipe-Relay: 2\r\n", b"Content-Length: 5\r\n", b"Content-Length: 99999999\r\n", b"\r\n",
     b"Transfer-Encoding: chunked\r\n", b"ffffffff\r\n", b"hello", b"{}", b"\0", b"HTTP/1.1 409 x\r\n"]),
    max_size=12).map(b"".join))  # fmt: skip
@settings(max_examples=150, deadline=None)
def test_whatever_a_relay_answers_home_has_a_word_for_it(octets: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            for _ in range(2):
                connection, _ = listener.accept()
                with connection:
                    connection.recv(10_000)
                    connection.sendall(octets)

        answering = threading.Thread(target=answer)
        answering.start()
        client = ControlClient(listener.getsockname(), Home(_HOME, 3, "2"), None)
        asks: Sequence[Callable[[], object]] = (
            partial(client.request, "GET", "/state"),
            partial(client.download, "/items/1", io.BytesIO(), 1000),
        )
        for ask in asks:
            with suppress(ControlFailure):  # any other error ends the test
                ask()
            client.close()
        answering.join(10)
        assert not answering.is_alive()


@pytest.mark.parametrize("body", [b"", b"null", b"[1]", b"{", b"\xff\xfe"])
def test_what_is_no_message_is_refused(body: bytes) -> None:
    with pytest.raises(ControlError, match="Problem"):
        Problem.read(body)


@contextmanager
def _plain_relay() -> Iterator[Listener]:
    def handle(request: Request) -> Response:
        assert request.method in {"GET", "PUT", "POST", "DELETE"}
        assert request.home_epoch == 3
        return _hash(request)

    with _relay(None, handle) as relay:
        yield relay


def _rest(connection: socket.socket) -> bytes:
    found = b""
    try:
        while piece := connection.recv(10_000):
            found += piece
    except ConnectionResetError:
        pass
    return found


def _drip(connection: ssl.SSLSocket, octets: bytes) -> None:
    for octet in octets:
        connection.send(bytes([octet]))
        time.sleep(0.02)
    raise AssertionError("nobody has ended it")
