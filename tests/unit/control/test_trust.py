"""The control plane from both ends: who gets an answer, of which version and epoch."""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

import home.control_client
import relay.control_request
import relay.control_server
from home.control_client import ControlClient, Home
from home.control_errors import (
    Apart,
    Fenced,
    NotAccepted,
    OtherRelay,
    Refused,
    Unreachable,
    WrongCertificate,
)
from model.control_tls import CertificateError, Pins, certificate_command, certificate_of, check_certificates
from relay.control_server import ControlServer
from relay.fence import Identity
from tests.control_ends import HOME_ID, RELAY_ID, US, Keys, hashed, rest_of, serve_relay


def test_somebody_in_the_tunnel_without_a_key_gets_nothing(keys: Keys) -> None:
    with serve_relay(keys, hashed) as relay:
        with socket.create_connection(relay.server.address) as plain:
            plain.sendall(b"GET /state HTTP/1.1\r\nHost: relay\r\n\r\n")
            assert b"HTTP" not in rest_of(plain)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with socket.create_connection(relay.server.address) as plain, context.wrap_socket(plain) as connection:
            connection.sendall(b"GET /state HTTP/1.1\r\nHost: relay\r\n\r\n")
            with pytest.raises(ssl.SSLError, match=r"(?i)certificate.required"):
                connection.recv(1)
        assert not relay.asked


def test_a_home_with_another_key_is_told_so(keys: Keys) -> None:
    with serve_relay(keys, hashed) as relay, relay.client(keys, own=keys.other[0]) as client:
        with pytest.raises(NotAccepted, match="darkpipe pair --again"):
            client.request("GET", "/state")
        assert not relay.asked


def test_a_relay_with_another_key_gets_nothing(keys: Keys) -> None:
    with serve_relay(keys, hashed) as relay, relay.client(keys, others=keys.other[1]) as client:
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
        server = ControlServer(listener, lambda: pins, lambda: Identity(RELAY_ID, HOME_ID, 3), hashed)
        serving = threading.Thread(target=server.serve)
        serving.start()
        with ControlClient(server.address, US, Pins(authority, keys.relay[1], server=False)) as client:
            assert client.request("GET", "/state").status == 200
        stranger = ControlClient(server.address, US, Pins(theirs, keys.relay[1], server=False))
        with pytest.raises(Unreachable):
            stranger.request("GET", "/state")
        server.stop()
        serving.join(10)


def test_two_certificates_hold_while_one_follows_the_other(keys: Keys) -> None:
    both = keys.home[1] + keys.other[1]
    with serve_relay(keys, hashed) as relay:
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
    with serve_relay(keys, hashed) as relay:
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
    with serve_relay(keys, hashed) as relay, relay.client(keys) as client:
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
        with serve_relay(keys, hashed) as place, place.client(keys) as client:
            with pytest.raises(Refused, match=remedy) as refused:
                client.request("GET", "/state")
            assert refused.value.status == 426
            assert not place.asked


def test_a_home_that_was_overtaken_is_fenced(keys: Keys) -> None:
    with serve_relay(keys, hashed) as relay:
        with relay.client(keys) as client:
            assert client.request("GET", "/items").status == 200
            # In the middle of a connection, too.
            relay.identity = Identity(RELAY_ID, HOME_ID, 4)
            with pytest.raises(Fenced, match="restored from its backup has epoch 4"):
                client.request("DELETE", "/items/1")
        assert [one.method for one in relay.asked] == ["GET"]


def test_a_home_of_whose_epoch_only_the_agent_knows_waits(keys: Keys) -> None:
    later = Home(HOME_ID, 4, RELAY_ID)
    with (
        serve_relay(keys, hashed) as queue,
        queue.client(keys, later) as client,
        pytest.raises(Fenced, match="not been told"),
    ):
        client.request("GET", "/items")
    with serve_relay(keys, hashed, newer=True) as agent, agent.client(keys, later) as client:
        assert client.request("PUT", "/fence").status == 200
        assert agent.asked[0].home_epoch == 4


def test_ids_are_those_of_pairing(keys: Keys) -> None:
    with serve_relay(keys, hashed) as relay:
        with relay.client(keys, Home("3" * 32, 3, RELAY_ID)) as client, pytest.raises(Refused, match="another home"):
            client.request("GET", "/state")
        with relay.client(keys, Home(HOME_ID, 3, "4" * 32)) as client, pytest.raises(OtherRelay, match="4444"):
            client.request("GET", "/state")
