"""Strangers who send to Alice, Alice herself, and what lies in her mailbox: for the tests of spam."""

from __future__ import annotations

import imaplib
import smtplib
import ssl
import uuid
from collections.abc import Sequence

from tests import mail
from tests.machine.conftest import PASSWORD
from tests.machine.machine import CLIENT_ADDRESS, HOME_ADDRESS, Client

ALICE = "alice@example.com"


def new_subject() -> str:
    """Make up what a message is found by."""
    return f"test {uuid.uuid4()}"


def letter(
    subject: str,
    body: str = "hello",
    fields: Sequence[str] = (),
    sender: str = "Stranger <stranger@example.net>",
) -> bytes:
    """Write a message to Alice; the fields stand above its own."""
    head = (f"From: {sender}", f"To: {ALICE}", f"Subject: {subject}")
    date = ("Date: Mon, 23 Nov 2026 01:02:03 +0000", f"Message-ID: <{uuid.uuid4()}@example.net>")
    return "\r\n".join((*fields, *head, *date, "", body, "")).encode()


def send(client: Client, message: bytes, source: str = CLIENT_ADDRESS) -> tuple[int, bytes]:
    """Send through port 25; gives the answer to the message."""
    session = client.call(smtplib.SMTP, HOME_ADDRESS, 25, "mx.example.net", 30, source_address=(source, 0))
    with session:
        session.ehlo()
        assert session.mail("stranger@example.net")[0] == session.rcpt(ALICE)[0] == 250
        return session.data(message)


def submit(client: Client, message: bytes, source: str = CLIENT_ADDRESS) -> None:
    """Send as Alice's mail app does."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    session = client.call(
        smtplib.SMTP_SSL,
        HOME_ADDRESS,
        465,
        "phone.example.net",
        timeout=30,
        context=context,
        source_address=(source, 0),
    )
    with session:
        session.login(ALICE, PASSWORD)
        session.sendmail(ALICE, ALICE, message)


def open_mailbox(client: Client) -> imaplib.IMAP4_SSL:
    """Log in to Alice's mailbox."""
    return client.call(mail.mailbox, 993, ALICE, PASSWORD, host=HOME_ADDRESS)


def delivered(client: Client, subject: str, folder: str = "INBOX") -> bytes:
    """Wait for a message in a folder of Alice's, and give it."""
    mailbox = open_mailbox(client)
    try:
        return mail.fetch(mailbox, subject, folder)
    finally:
        mailbox.logout()
