"""Mail: what comes in, what is refused, where it lies."""

from __future__ import annotations

import imaplib
import re
import smtplib
import ssl
import uuid
from pathlib import Path

import pytest

from tests import mail
from tests.machine.conftest import PASSWORD
from tests.machine.machine import HOME_ADDRESS, Client, Machine

SENDER = "stranger@example.net"
ALICE = "alice@example.com"


def _send(client: Client, recipient: str, message: Path | None = None, sender: str = SENDER) -> tuple[int, str]:
    done = client.call(mail.swaks, 25, sender, recipient, message, host=HOME_ADDRESS)
    return done.returncode, done.stdout + done.stderr


def _message(folder: Path, *lines: str) -> tuple[Path, str, bytes]:
    subject = f"test {uuid.uuid4()}"
    head = ("From: Stranger <stranger@example.net>", "To: whoever it may concern", f"Subject: {subject}")
    date = ("Date: Mon, 23 Nov 2026 01:02:03 +0000", f"Message-ID: <{uuid.uuid4()}@example.net>")
    text = "\n".join((*head, *date, "", *lines))
    path = folder / "message"
    path.write_text(text)
    # swaks ends the last line itself.
    return path, subject, f"{text}\n".replace("\n", "\r\n").encode()


def _received(
    client: Client, subject: str, user: str = ALICE, password: str = PASSWORD, folder: str = "INBOX"
) -> bytes:
    mailbox = client.call(mail.mailbox, 993, user, password, host=HOME_ADDRESS)
    try:
        return mail.fetch(mailbox, subject, folder)
    finally:
        mailbox.logout()


def test_a_message_arrives_byte_for_byte(client: Client, tmp_path: Path) -> None:
    body = (
        "Grüße, €, 日本",
        "From the start of a line",
        ".",
        "..two dots",
        "\ttab and space at the end \t",
        "x" * 5000,
    )
    path, subject, sent = _message(tmp_path, *body)
    status, transcript = _send(client, ALICE, path)
    assert status == 0, transcript
    received = _received(client, subject)
    assert received != sent  # the servers leave their trace
    assert mail.without_trace(received) == sent


@pytest.mark.parametrize(
    "recipient",
    [
        "ALICE@Example.COM",
        "alice+shop@example.com",
        "sales@example.org",
        "postmaster",
        "postmaster@example.com",
        "postmaster@example.org",
        "abuse@example.org",
        "postmaster@mx.example.com",
        "info@xn--bcher-kva.example",
    ],
)
def test_addresses_of_alice(client: Client, tmp_path: Path, recipient: str) -> None:
    path, subject, _ = _message(tmp_path, "hello")
    status, transcript = _send(client, recipient, path)
    assert status == 0, transcript
    assert subject.encode() in _received(client, subject)


def test_a_bounce_has_no_sender_and_arrives(client: Client, tmp_path: Path) -> None:
    path, subject, _ = _message(tmp_path, "could not be delivered")
    status, transcript = _send(client, ALICE, path, sender="<>")
    assert status == 0, transcript
    assert b"Return-Path: <>" in _received(client, subject)


@pytest.mark.parametrize(
    "recipient", ["nobody@example.com", "alice@example.org", "root@mx.example.com", "root@[192.168.55.1]"]
)
def test_an_unknown_user_is_refused_in_the_session(device: Machine, client: Client, recipient: str) -> None:
    if "[" in recipient:
        # Postfix's processes learn the device's addresses when they start, and the question whether it is ready, asked
        # all the time, has kept some of them since before the cable was plugged in.
        device.run("systemctl", "restart", "postfix")
    status, transcript = _send(client, recipient)
    assert status != 0
    assert re.search(r"^<\*\* 550 5\.1\.1 ", transcript, re.MULTILINE), transcript


def test_not_even_the_device_itself_can_relay_by_smtp(device: Machine) -> None:
    session = b"EHLO localhost\r\nMAIL FROM:<alice@example.com>\r\nRCPT TO:<a@example.net>\r\nQUIT\r\n"
    script = "import socket,sys,time\ns=socket.create_connection(('127.0.0.1',25))\nf=s.makefile('rwb')\n"
    script += "f.readline()\nfor line in sys.stdin.buffer.readlines():\n f.write(line);f.flush()\n"
    script += " while True:\n  reply=f.readline();print(reply.decode(),end='')\n  if reply[3:4]!=b'-':break\n"
    assert "554 5.7.1 <a@example.net>: Relay access denied" in device.run("python3", "-c", script, stdin=session)


def test_starttls_is_offered_with_the_devices_own_certificate(client: Client, device: Machine, tmp_path: Path) -> None:
    certificate = tmp_path / "mail.pem"
    certificate.write_bytes((device.data / "tls/mail.pem").read_bytes())
    context = ssl.create_default_context(cafile=str(certificate))
    with _session(client) as session:
        session._host = "mx.example.com"  # type: ignore[attr-defined]  # the name that the certificate must have
        assert session.starttls(context=context)[0] == 220
        session.ehlo()
        assert session.has_extn("smtputf8")


def test_an_address_in_unicode_arrives(client: Client) -> None:
    subject = f"test {uuid.uuid4()}"
    message = f"From: jürgen@example.net\r\nSubject: {subject}\r\n\r\nGrüße\r\n".encode()
    with _session(client) as session:
        session.sendmail("jürgen@example.net", "info@bücher.example", message, ["SMTPUTF8", "BODY=8BITMIME"])
    assert "jürgen@example.net".encode() in _received(client, subject)


def _session(client: Client) -> smtplib.SMTP:
    return client.call(smtplib.SMTP, HOME_ADDRESS, 25, "client.example.net", 30)


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_old_tls_is_refused(client: Client) -> None:
    context = mail.old_tls()
    with pytest.raises(ssl.SSLError):
        client.call(imaplib.IMAP4_SSL, HOME_ADDRESS, 993, ssl_context=context, timeout=30)


def test_mail_apps_find_the_usual_folders(client: Client) -> None:
    mailbox = client.call(mail.mailbox, 993, ALICE, PASSWORD, host=HOME_ADDRESS)
    _, listed = mailbox.list()
    mailbox.logout()
    text = b"\n".join(row for row in listed if isinstance(row, bytes)).decode()
    for use in ("Drafts", "Sent", "Archive", "Junk", "Trash"):
        assert re.search(rf'\\{use}\b.*"/" {use}$', text, re.MULTILINE), text


def test_mail_to_the_outside_waits(device: Machine) -> None:
    address = f"friend-{uuid.uuid4()}@example.net"
    device.run("sendmail", "-f", ALICE, address, stdin=b"Subject: hello\n\nhello\n")
    device.run("timeout", "30", "sh", "-c", f"until postqueue -p | grep -q {address}; do sleep 0.2; done")
    queue = device.run("postqueue", "-p")
    assert "no relay is paired yet" in queue.replace("\n", " "), queue
    device.run("postqueue", "-f")
    device.restart()
    assert address in device.run("postqueue", "-p")


def test_a_restart_keeps_mail(device: Machine, tmp_path: Path) -> None:
    path, subject, _ = _message(tmp_path, "keep me")
    with device.lan() as client:
        status, transcript = _send(client, ALICE, path)
        assert status == 0, transcript
        before = _received(client, subject)
    device.restart()
    with device.lan() as client:
        assert _received(client, subject) == before


# Last: Dovecot lets an address wait longer and longer after it has guessed wrong.
@pytest.mark.parametrize(("user", "password"), [(ALICE, "wrong"), ("nobody@example.com", PASSWORD)])
def test_a_wrong_password_is_refused(client: Client, user: str, password: str) -> None:
    with pytest.raises(imaplib.IMAP4.error, match="AUTHENTICATIONFAILED"):
        client.call(mail.mailbox, 993, user, password, host=HOME_ADDRESS)
