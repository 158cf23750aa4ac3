"""The ports for the tunnel to a relay, whose HAProxy names the true client (PROXY protocol v2), and who gets there."""

from __future__ import annotations

import imaplib
import smtplib
import socket
import struct
import subprocess
import uuid
from collections.abc import Iterator

import pytest

from tests import mail
from tests.machine.conftest import PASSWORD
from tests.machine.machine import (
    CLIENT_ADDRESS,
    HOME_ADDRESS,
    TUNNEL_ADDRESS,
    TUNNEL_ADDRESS_6,
    Client,
    Machine,
    wait_for,
)

ALICE = "alice@example.com"
TRUE_CLIENT = "203.0.113.7"
OTHER_CLIENT = "203.0.113.8"
TRUE_CLIENT_6 = "2001:db8:7::7"
NEIGHBOURS = ("192.168.77.7", "fd77::7")
"""Clients that rspamd takes for no strangers."""

_TUNNEL_PORTS = {25: 2525, 465: 2465, 587: 2587, 993: 2993}
"""Port of the relay to port of the device."""

_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"  # proxy-protocol.txt §2.2


def _haproxy_settings() -> str:
    lines = ["defaults", "  mode tcp", "  timeout connect 5s", "  timeout client 90s", "  timeout server 90s"]
    for port, behind in _TUNNEL_PORTS.items():
        for family, bind, home in (("4", f"0.0.0.0:{port}", TUNNEL_ADDRESS), ("6", f"[::1]:{port}", TUNNEL_ADDRESS_6)):
            lines += [
                f"listen port-{port}-{family}",
                f"  bind {bind}",
                f"  server home [{home}]:{behind} send-proxy-v2",
            ]
    return "\n".join(lines).replace(f"[{TUNNEL_ADDRESS}]", TUNNEL_ADDRESS) + "\n"


@pytest.fixture(scope="module")
def relay(device: Machine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """The other end of the tunnel: HAProxy passes on what comes to its own address 127.0.0.1 (and ::1)."""
    settings = tmp_path_factory.mktemp("haproxy") / "haproxy.cfg"
    settings.write_text(_haproxy_settings())
    with device.tunnel() as relay:
        for address in (TRUE_CLIENT, OTHER_CLIENT, TRUE_CLIENT_6, *NEIGHBOURS):
            relay.add_address(address)
        process = relay.call(subprocess.Popen, ["haproxy", "-db", "-f", str(settings)], stdin=subprocess.DEVNULL)
        try:
            wait_for(lambda: relay.reachable(_TUNNEL_PORTS, "127.0.0.1") == set(_TUNNEL_PORTS), "HAProxy")
            yield relay
        finally:
            process.terminate()
            process.wait()


def _smtp(relay: Client, port: int, source: str = TRUE_CLIENT) -> smtplib.SMTP:
    host = "::1" if ":" in source else "127.0.0.1"
    if port == 465:
        options = {"timeout": 30, "context": mail.any_certificate(), "source_address": (source, 0)}
        return relay.call(smtplib.SMTP_SSL, host, port, "client.example.net", **options)  # type: ignore[arg-type]
    return relay.call(smtplib.SMTP, host, port, "client.example.net", 30, (source, 0))


def _log(device: Machine, unit: str) -> str:
    return device.run("journalctl", "--boot", "--no-pager", "--output=cat", f"--unit={unit}.service")


@pytest.mark.parametrize("source", [TRUE_CLIENT, TRUE_CLIENT_6])
def test_rspamd_judges_the_true_client(device: Machine, relay: Client, source: str) -> None:
    letter = mail.letter("from a stranger", "a@example.net", ALICE)
    with _smtp(relay, 25, source) as session, pytest.raises(smtplib.SMTPDataError, match=r"451.*Greylisted"):
        session.sendmail("a@example.net", ALICE, letter)
    assert f"from unknown[{source}]" in _log(device, "postfix")


@pytest.mark.parametrize("source", NEIGHBOURS)
def test_postfix_sees_the_true_client(device: Machine, relay: Client, source: str) -> None:
    subject = f"test {uuid.uuid4()}"
    with _smtp(relay, 25, source) as session:
        session.sendmail("a@example.net", ALICE, mail.letter(subject, "a@example.net", ALICE))
    with device.lan() as client:
        mailbox = client.call(mail.mailbox, 993, ALICE, PASSWORD, host=HOME_ADDRESS)
        received = mail.fetch(mailbox, subject)
        mailbox.logout()
    shown = f"IPv6:{source}" if ":" in source else source
    assert f"Received: from client.example.net (unknown [{shown}])".encode() in received
    assert f"client=unknown[{source}]" in _log(device, "postfix")


def test_nobody_can_relay_through_the_tunnel(relay: Client) -> None:
    with _smtp(relay, 25) as session:
        session.ehlo()
        assert not session.has_extn("auth")
        session.mail("a@example.com")
        assert session.rcpt("b@example.net")[0] == 554


@pytest.mark.parametrize("port", [465, 587])
def test_an_app_sends_through_the_tunnel_after_a_login(device: Machine, relay: Client, port: int) -> None:
    with _smtp(relay, port) as session:
        if port == 587:
            assert session.mail(ALICE)[0] == 530
            session.starttls(context=mail.any_certificate())
        session.ehlo()
        assert session.mail(ALICE)[0] == 530
        session.login(ALICE, PASSWORD)
        assert session.mail(ALICE)[0] == session.rcpt("dave@example.org")[0] == 250
        code, text = session.data(mail.letter("through the tunnel", ALICE, "dave@example.org"))
        assert code == 250
    queue_id = text.decode().split()[-1]
    assert f"{queue_id}: client=unknown[{TRUE_CLIENT}], sasl_method=PLAIN, sasl_username={ALICE}" in _log(
        device, "postfix"
    )


def test_dovecot_sees_the_true_client(device: Machine, relay: Client) -> None:
    def log_in() -> imaplib.IMAP4_SSL:
        client = imaplib.IMAP4_SSL.__new__(imaplib.IMAP4_SSL)
        client._create_socket = lambda *_: mail.any_certificate().wrap_socket(  # type: ignore[attr-defined]
            socket.create_connection(("127.0.0.1", 993), 30, (TRUE_CLIENT, 0))
        )
        imaplib.IMAP4.__init__(client, "127.0.0.1", 993)
        client.login(ALICE, PASSWORD)
        return client

    relay.call(log_in).logout()
    assert f"rip={TRUE_CLIENT}, lip=127.0.0.1" in _log(device, "dovecot")


def test_who_guesses_passwords_is_stopped_and_not_the_relay(relay: Client) -> None:
    def try_to_log_in(source: str) -> tuple[int, bytes]:
        with _smtp(relay, 465, source) as session:
            session.ehlo()
            for _ in range(8):  # Postfix slows a session down after ten mistakes
                answer = session.docmd("AUTH", "NONE")
            return answer

    for _ in range(4):
        last = try_to_log_in(OTHER_CLIENT)
    assert last[0] == 450, last
    with _smtp(relay, 465, TRUE_CLIENT) as session:
        session.login(ALICE, PASSWORD)


@pytest.mark.parametrize("port", _TUNNEL_PORTS.values())
def test_a_client_that_does_not_say_who_it_is_is_dropped(relay: Client, port: int) -> None:
    with relay.call(socket.create_connection, (TUNNEL_ADDRESS, port), 30) as connection:
        connection.sendall(b"EHLO client.example.net\r\nMAIL FROM:<>\r\n\r\n\r\n")
        # Postfix says so before it closes, under TLS or not.
        assert _rest(connection) in {b"", b"421 4.3.0 mx.example.com Server local error\r\n"}


@pytest.mark.parametrize("address", [TUNNEL_ADDRESS, TUNNEL_ADDRESS_6, HOME_ADDRESS])
def test_the_relay_reaches_its_own_ports_only(device: Machine, relay: Client, address: str) -> None:
    plain = (25, 53, 143, 465, 587, 993, 4190, 10001, 10002, 10026, 10027)
    relay.route(HOME_ADDRESS, TUNNEL_ADDRESS)
    with device.lan():
        assert relay.reachable(plain, address) == set()
    if address != HOME_ADDRESS:
        assert relay.reachable(_TUNNEL_PORTS.values(), address) == set(_TUNNEL_PORTS.values())


@pytest.mark.parametrize("address", [HOME_ADDRESS, TUNNEL_ADDRESS])
def test_the_lan_cannot_reach_the_ports_for_the_relay(relay: Client, client: Client, address: str) -> None:
    client.route(TUNNEL_ADDRESS, HOME_ADDRESS)
    assert relay.can_connect(2525, TUNNEL_ADDRESS)
    assert client.can_connect(25, address)
    assert client.reachable(_TUNNEL_PORTS.values(), address) == set()


def _claim(source: str) -> bytes:
    """A PROXY v2 header for TCP over IPv4 (proxy-protocol.txt §2.2)."""
    addresses = socket.inet_aton(source) + socket.inet_aton(HOME_ADDRESS) + struct.pack("!HH", 40000, 25)
    return _SIGNATURE + struct.pack("!BBH", 0x21, 0x11, len(addresses)) + addresses


@pytest.mark.parametrize("port", _TUNNEL_PORTS)
def test_in_the_lan_nobody_can_claim_to_be_somebody_else(device: Machine, client: Client, port: int) -> None:
    claimed = "198.51.100.99"
    with client.call(socket.create_connection, (HOME_ADDRESS, port), 30) as connection:
        if port in {25, 587}:
            assert connection.recv(1000).startswith(b"220 ")
        connection.sendall(_claim(claimed) + b"EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<alice@example.com>\r\nQUIT\r\n")
        answer = _rest(connection)
    assert b"250" not in answer
    log = _log(device, "postfix" if port != 993 else "dovecot")
    assert claimed not in log
    assert CLIENT_ADDRESS in log


def _rest(connection: socket.socket) -> bytes:
    """All that the other side sends until it closes the connection."""
    received = b""
    try:
        while data := connection.recv(4096):
            received += data
    except ConnectionResetError:
        pass
    return received
