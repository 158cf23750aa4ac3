"""What strangers try at port 25: relaying, smuggling, messages that are too large; and what is not there at all."""

from __future__ import annotations

import smtplib
import uuid

import pytest

from tests import mail
from tests.machine.conftest import PASSWORD
from tests.machine.machine import HOME_ADDRESS, HOME_ADDRESS_6, Client

SENDER = "stranger@example.net"
ALICE = "alice@example.com"

_LARGEST = 50 * 1024 * 1024


def _session(client: Client) -> smtplib.SMTP:
    session = client.call(smtplib.SMTP, HOME_ADDRESS, 25, "client.example.net", 60)
    session.ehlo()
    return session


def _fetch(client: Client, subject: str) -> bytes:
    mailbox = client.call(mail.mailbox, 993, ALICE, PASSWORD, host=HOME_ADDRESS)
    try:
        return mail.fetch(mailbox, subject)
    finally:
        mailbox.logout()


@pytest.mark.parametrize("sender", [SENDER, ALICE, "", "postmaster", "root@mx.example.com", f"a@[{HOME_ADDRESS}]"])
def test_nobody_can_relay(client: Client, sender: str) -> None:
    """The ways of the open-relay testers, each with senders that might be trusted."""
    tried = [
        "a@example.net",
        "a%example.net",
        "a%example.net@example.com",
        f"a%example.net@[{HOME_ADDRESS}]",
        "a%example.net@mx.example.com",
        '"a@example.net"',
        '"a@example.net"@example.com',
        '"a%example.net"@example.com',
        "a@example.net@example.com",
        "@example.com:a@example.net",
        f"@[{HOME_ADDRESS}]:a@example.net",
        "@example.com,@example.org:a@example.net",
        "example.net!a",
        "example.net!a@example.com",
        f"example.net!a@[{HOME_ADDRESS}]",
        '"example.net!a"@example.com',
        f"a@[{HOME_ADDRESS}]",
        f"a@[IPv6:{HOME_ADDRESS_6}]",
        "a@[198.51.100.7]",
        "a@198.51.100.7",
        "a@localhost",
        "a@example.com.example.net",
        "a@sub.example.com",
        "a@.example.com",
        "a@example.com.",
        "alice@example.com@example.net",
        "alice@example.com%example.net",
        '"alice@example.com"@example.net',
        "alice@example.com\0@example.net",
    ]
    for recipient in tried:
        with _session(client) as session:
            assert session.docmd("MAIL", f"FROM:<{sender}>")[0] == 250, sender
            code, text = session.docmd("RCPT", f"TO:<{recipient}>")
            assert 500 <= code <= 599, (recipient, code, text)
            assert session.docmd("DATA")[0] in {503, 554}


@pytest.mark.parametrize(
    "end",
    [
        b"\n.\n",
        b"\n.\r\n",
        b"\r\n.\n",
        b"\r.\r",
        b"\r.\r\n",
        b"\r\n.\r",
        b"\r.\n",
        b"\n.\r",
        b"\r\r\n.\r\r\n",
        b"\r\n\0.\r\n",
        b"\r\n.\0\r\n",
        b"\n\n.\r\n",
    ],
)
def test_a_message_cannot_be_smuggled_into_another(client: Client, end: bytes) -> None:
    """Only CR LF . CR LF ends a message (RFC 5321 §2.3.8), else the second would come with the first one's credit.

    The variants are those of CVE-2023-51764 and its relatives in other servers.
    """
    subject = f"test {uuid.uuid4()}"
    second = f"MAIL FROM:<forged@example.com>\r\nRCPT TO:<{ALICE}>\r\nDATA\r\nSubject: forged {subject}\r\n\r\nforged"
    with _session(client) as session:
        session.mail(SENDER)
        session.rcpt(ALICE)
        assert session.docmd("DATA")[0] == 354
        session.send(f"Subject: {subject}\r\n\r\nfirst".encode() + end + second.encode() + b"\r\n.\r\n")
        assert session.getreply()[0] == 250
        assert session.noop()[0] == 250  # the answer to this, not to a second message
    received = _fetch(client, subject)
    assert b"RCPT TO" in received
    assert b"Return-Path: <stranger@example.net>" in received


def test_commands_sent_before_their_turn_end_the_session(client: Client) -> None:
    with _session(client) as session:
        session.send(f"MAIL FROM:<{SENDER}>\r\nRCPT TO:<{ALICE}>\r\nDATA\r\nSubject: early\r\n\r\n.\r\n".encode())
        replies = [session.getreply()[0] for _ in range(3)]
    assert replies == [250, 250, 554]


def test_a_message_that_is_too_large_is_refused_before_it_is_sent(client: Client) -> None:
    with _session(client) as session:
        assert session.esmtp_features["size"] == str(_LARGEST)
        code, text = session.mail(SENDER, [f"SIZE={_LARGEST + 1}"])
        assert (code, text) == (552, b"5.3.4 Message size exceeds fixed limit")
        assert session.mail(SENDER, [f"SIZE={_LARGEST}"])[0] == 250


def _filled(subject: str, size: int) -> bytes:
    """A message of exactly so many octets."""
    head = f"Subject: {subject}\r\n\r\n".encode()
    rest = size - len(head)
    lines = b"x" * 98 + b"\r\n"
    return head + lines * ((rest - 200) // 100) + b"x" * (rest - (rest - 200) // 100 * 100 - 2) + b"\r\n"


def test_the_limit_holds_for_those_who_do_not_say_their_size(client: Client) -> None:
    subject = f"test {uuid.uuid4()}"
    with _session(client) as session:
        for size, expected in ((_LARGEST, 250), (_LARGEST + 1, 552)):
            assert session.mail(SENDER)[0] == session.rcpt(ALICE)[0] == 250
            message = _filled(f"{subject} {expected}", size)
            assert len(message) == size
            code, text = session.data(message)
            assert code == expected, text
            if expected == 552:
                assert text.startswith(b"5.3.4 ")
    received = _fetch(client, f"{subject} 250")
    assert mail.arrived_below_trace(received, _filled(f"{subject} 250", _LARGEST))


def test_pop3_is_not_there(client: Client) -> None:
    assert client.reachable((110, 995)) == set()
