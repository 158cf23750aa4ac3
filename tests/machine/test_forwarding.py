"""Forwarding: what leaves for an address outside, under whose name (SRS), and the way back of its bounces."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import smtplib
import time
import uuid
from collections.abc import Iterator

import pytest

from tests import mail
from tests.machine.conftest import PASSWORD
from tests.machine.machine import HOME_ADDRESS, Client, Machine, wait_for

ALICE = "alice@example.com"
LIST = "list@example.com"
"""Leads to Alice and to FRIEND."""

FRIEND = "friend@elsewhere.example"

_SRS = re.compile(r"SRS0=[A-Za-z0-9+/]{4}=[A-Z2-7]{2}=example\.net=([^@]+)@mx\.example\.com")


@pytest.fixture(scope="module", autouse=True)
def _list(device: Machine) -> Iterator[None]:
    # With a LAN: Postfix's processes learn the device's addresses when they start, and stay for the tests after these.
    with device.lan():
        device.run("darkpipe", "alias", "add", LIST, ALICE, FRIEND)
    yield
    with device.lan():
        device.run("darkpipe", "alias", "remove", LIST)


def _session(client: Client, port: int = 25) -> smtplib.SMTP:
    return client.call(smtplib.SMTP, HOME_ADDRESS, port, "client.example.net", 30)


def _send(client: Client, sender: str, recipient: str = LIST) -> str:
    """Send a message and give its subject."""
    subject = f"test {uuid.uuid4()}"
    with _session(client) as session:
        session.sendmail(sender, recipient, f"From: {sender}\r\nTo: {recipient}\r\nSubject: {subject}\r\n\r\nhello\r\n")
    return subject


def _forwarded(device: Machine, subject: str, recipient: str = FRIEND) -> tuple[str, str]:
    """Wait for the message in the queue; gives its envelope sender and its text."""
    found: list[tuple[str, str]] = []

    def look() -> bool:
        for message in map(json.loads, device.run("postqueue", "-j").splitlines()):
            if recipient in {to["address"] for to in message["recipients"]} and message["queue_name"] == "deferred":
                text = device.run("postcat", "-q", message["queue_id"], check=False)
                if subject in text:
                    found.append((message["sender"], text))
        return bool(found)

    wait_for(look, f"the message {subject} for {recipient}")
    assert len(found) == 1
    return found[0]


def _received(client: Client, subject: str) -> bytes:
    mailbox = client.call(mail.mailbox, 993, ALICE, PASSWORD, host=HOME_ADDRESS)
    try:
        return mail.fetch(mailbox, subject)
    finally:
        mailbox.logout()


def _rewritten(device: Machine, client: Client, sender: str) -> str:
    return _forwarded(device, _send(client, sender))[0]


@pytest.mark.parametrize("sender", ["stranger@example.net", "Stranger+shop@example.net"])
def test_the_envelope_sender_is_rewritten_for_the_outside_only(device: Machine, client: Client, sender: str) -> None:
    subject = _send(client, sender)
    rewritten, text = _forwarded(device, subject)
    found = _SRS.fullmatch(rewritten)
    assert found, rewritten
    assert found[1] == sender.partition("@")[0]
    assert f"From: {sender}\nTo: {LIST}\nSubject: {subject}\n" in text
    received = _received(client, subject)
    assert f"Return-Path: <{sender}>".encode() in received
    assert f"From: {sender}\r\n".encode() in received
    assert b"SRS0" not in received


@pytest.mark.parametrize("sender", ["", ALICE, "dave+x@example.org"])
def test_our_own_senders_and_bounces_stay(device: Machine, client: Client, sender: str) -> None:
    rewritten, _ = _forwarded(device, _send(client, sender))
    assert rewritten == (sender or "MAILER-DAEMON")


def test_what_another_forwarder_has_rewritten_is_rewritten_once_more(device: Machine, client: Client) -> None:
    rewritten = _rewritten(device, client, "SRS0=abcd=XY=origin.example=someone@example.net")
    assert rewritten.startswith("SRS1=")
    assert "=example.net==abcd=XY=origin.example=someone@mx.example.com" in rewritten


def test_a_bounce_finds_the_way_back(device: Machine, client: Client) -> None:
    sender = f"stranger-{uuid.uuid4()}@example.net"
    rewritten = _rewritten(device, client, sender)
    subject = _send(client, "", rewritten)
    assert _forwarded(device, subject, sender)[0] == "MAILER-DAEMON"


def test_addresses_that_we_have_not_made_are_unknown(device: Machine, client: Client) -> None:
    made = _rewritten(device, client, "stranger@example.net")
    _, _, stamp, domain, local = made.partition("@")[0].split("=")
    forged = [
        f"SRS0=AAAA={stamp}={domain}={local}@mx.example.com",
        made.replace("stranger", "another"),
        made.replace("example.net", "example.edu"),
        made.replace("@mx.example.com", "@example.com"),
        f"SRS0=={stamp}={domain}={local}@mx.example.com",
        "SRS0=x@mx.example.com",
        f"SRS1=AAAA=example.net=={stamp}={domain}={local}@mx.example.com",
        f"SRS0={domain}@mx.example.com",
    ]
    with _session(client) as session:
        session.ehlo()
        session.mail("")
        for address in forged:
            code, text = session.rcpt(address)
            assert (code, text[:5]) == (550, b"5.1.1"), (address, code, text)
        assert session.rcpt(made)[0] == 250


_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"


def _stamp(days_ago: int) -> str:
    """Days since 1970 modulo 1024, in two characters of base 32 (the SRS paper by Shevek)."""
    day = (int(time.time()) // 86400 - days_ago) % 1024
    return _ALPHABET[day >> 5] + _ALPHABET[day & 31]


def _made_by_hand(key: str, days_ago: int) -> str:
    stamp = _stamp(days_ago)
    digest = hmac.new(key.encode(), f"{stamp.lower()}example.netstranger".encode(), hashlib.sha1).digest()
    return f"SRS0={base64.b64encode(digest).decode()[:4]}={stamp}=example.net=stranger@mx.example.com"


def test_an_address_expires(device: Machine, client: Client) -> None:
    key = device.run("cat", "/data/srs/key").strip()
    assert _made_by_hand(key, 0) == _rewritten(device, client, "stranger@example.net")
    with _session(client) as session:
        session.ehlo()
        session.mail("")
        assert session.rcpt(_made_by_hand(key, 20))[0] == 250
        for days in (22, 40, 400):
            assert session.rcpt(_made_by_hand(key, days))[0] == 550


@pytest.mark.parametrize(
    ("port", "user"),
    [
        *((port, user) for port in (10001, 10002, 10026, 10027) for user in ("dovenull", "unbound")),
        *((port, "root") for port in (10026, 10027)),
    ],
)
def test_the_ports_between_services_are_for_these_only(device: Machine, port: int, user: str) -> None:
    script = f"import socket; socket.create_connection(('127.0.0.1', {port}), 3)"
    identity = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"]
    assert "No route to host" in device.run(*identity, "python3", "-c", script, check=False)  # by the firewall
    allowed = ["setpriv", f"--reuid={'vmail' if port == 10027 else 'postfix'}", "--clear-groups", "--regid=200"]
    assert device.run(*allowed, "python3", "-c", script) == ""


def test_without_postsrsd_mail_waits_and_other_mail_arrives(device: Machine, client: Client) -> None:
    device.run("systemctl", "stop", "postsrsd")
    try:
        subject = _send(client, "stranger@example.net")
        _received(client, subject)
        wait_for(lambda: "said: 451 4.3.0 Error: queue file write error" in device.run("postqueue", "-j"), "it waits")
        with _session(client) as session:
            session.ehlo()
            session.mail("")
            assert session.rcpt("SRS0=AAAA=AA=example.net=a@mx.example.com")[0] == 451
            assert session.rcpt(ALICE)[0] == 250
    finally:
        device.run("systemctl", "start", "postsrsd")
    device.run("postqueue", "-f")
    assert _SRS.fullmatch(_forwarded(device, subject)[0])


def test_a_message_of_the_largest_size_is_forwarded(device: Machine, client: Client) -> None:
    subject = f"test {uuid.uuid4()}"
    head = f"From: a@example.net\r\nSubject: {subject}\r\n\r\n"
    with _session(client) as session:
        session.ehlo()
        largest = int(session.esmtp_features["size"])
        body = ("x" * 98 + "\r\n") * ((largest - len(head)) // 100)
        session.sendmail("stranger@example.net", LIST, head + body)
    assert _SRS.fullmatch(_forwarded(device, subject)[0])
