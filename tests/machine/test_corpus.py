"""A corpus of awkward messages: delivered over SMTP and read back over IMAP, octet by octet."""

from __future__ import annotations

import smtplib
import uuid
from collections.abc import Iterator

import pytest

from tests import mail
from tests.corpus import Sample, nested, samples
from tests.machine.conftest import PASSWORD
from tests.machine.machine import HOME_ADDRESS, Client, Machine

SAMPLES = samples()
_MAILDIR = "/data/mail/example.com/alice/Maildir"


def _send(client: Client, sender: str, sample: Sample, command: str) -> None:
    with client.call(smtplib.SMTP, HOME_ADDRESS, 25, "client.example.net", 60) as session:
        session.ehlo()
        assert session.mail(sender, ["BODY=8BITMIME", "SMTPUTF8"])[0] == 250
        assert session.rcpt("alice@example.com")[0] == 250
        if command == "DATA":
            assert session.docmd("DATA")[0] == 354
            # Not session.data(), which mends the ends of lines.
            text = sample.sent.replace(b"\r\n.", b"\r\n..")
            session.send((b"." if text.startswith(b".") else b"") + text + b".\r\n")
            code, answer = session.getreply()
        else:  # RFC 3030: so many octets, in chunks that end in the middle of a line
            middle = len(sample.sent) // 2
            session.send(f"BDAT {middle}\r\n".encode() + sample.sent[:middle])
            assert session.getreply()[0] == 250
            session.send(f"BDAT {len(sample.sent) - middle} LAST\r\n".encode() + sample.sent[middle:])
            code, answer = session.getreply()
        assert code == 250, answer


@pytest.mark.parametrize("command", ["DATA", "BDAT"])
@pytest.mark.parametrize("sample", SAMPLES, ids=[sample.name for sample in SAMPLES])
def test_a_message_stays_as_it_is(device: Machine, client: Client, sample: Sample, command: str) -> None:
    sender = f"corpus-{uuid.uuid4()}@example.net"
    _send(client, sender, sample, command)
    mailbox = client.call(mail.mailbox, 993, "alice@example.com", PASSWORD, host=HOME_ADDRESS)
    received = mail.fetch_by(mailbox, "Return-Path", sender)
    mailbox.logout()
    assert mail.arrived_below_trace(received, sample.expected(command == "BDAT")), received[:1000]
    if sample.name == "NUL":
        (stored,) = device.run("grep", "-rlF", sender, *(f"{_MAILDIR}/{name}" for name in ("cur", "new"))).split()
        assert device.run("tail", "-c", "9", stored).replace("\n", "\r\n").endswith("a\0b\r\n\0\r\n")


@pytest.mark.parametrize("place", ["the message", "a part"])
@pytest.mark.parametrize("field", [b"X-Long: " + b"x" * 60_100, b"X-Long: a" + b"\r\n\tbcdefghij" * 75_000])
def test_a_header_field_that_would_be_cut_off_is_refused(client: Client, field: bytes, place: str) -> None:
    head = b"From: Stranger <stranger@example.net>\r\nSubject: cut\r\nDate: Mon, 23 Nov 2026 01:02:03 +0000\r\n"
    if place == "the message":
        message = head + field + b"\r\n\r\ntext\r\n"
    else:
        kind = b'MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary="b"\r\n\r\n--b\r\n'
        message = head + kind + b"Content-Type: text/plain\r\n" + field + b"\r\n\r\ntext\r\n--b--\r\n"
    with client.call(smtplib.SMTP, HOME_ADDRESS, 25, "client.example.net", 60) as session:
        session.ehlo()
        session.mail("stranger@example.net")
        session.rcpt("alice@example.com")
        code, answer = session.data(message)
    assert (code, answer) == (554, b"5.7.1 A header field is longer than 59900 octets")


def test_a_message_of_too_many_parts_within_parts_is_refused_in_the_session(client: Client) -> None:
    """Postfix's limit since 3.10.13 (postconf(5), mime_nesting_limit)."""
    with client.call(smtplib.SMTP, HOME_ADDRESS, 25, "client.example.net", 60) as session:
        session.ehlo()
        session.mail("stranger@example.net")
        session.rcpt("alice@example.com")
        code, answer = session.data(nested(300))
    assert (code, answer) == (550, b"5.6.0 MIME nesting exceeds safety limit")


@pytest.fixture(scope="module", autouse=True)
def _tidy(device: Machine) -> Iterator[None]:
    yield
    device.run("doveadm", "expunge", "-u", "alice@example.com", "mailbox", "INBOX", "header", "Return-Path", "corpus-")


def test_the_comparison_finds_a_change() -> None:
    sent = b"Subject: a\r\n\r\ntext \r\n"
    trace = b"Return-Path: <>\r\nReceived: from a\r\n\tby b; now\r\n"
    assert mail.arrived_below_trace(trace + sent, sent)
    assert not mail.arrived_below_trace(trace + sent.replace(b" \r", b"\r"), sent)
    assert not mail.arrived_below_trace(trace + b"X-Other: b\r\n" + sent, sent)
    assert not mail.arrived_below_trace(trace + b"\r\n" + sent, sent)
