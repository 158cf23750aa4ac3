"""Quotas: a full mailbox takes nothing more, the sender is told in the session, and nothing is lost."""

from __future__ import annotations

import imaplib
import re
import smtplib
import uuid
from collections.abc import Iterator

import pytest

from tests import mail
from tests.machine.conftest import PASSWORD
from tests.machine.machine import HOME_ADDRESS, Client, Machine, wait_for

ALICE = "alice@example.com"
EVE = "eve@example.org"
BOTH = "both@example.org"
"""An alias of Alice and Eve."""

FULL = (452, b"4.2.2")
_MIB = 1024 * 1024


@pytest.fixture(scope="module", autouse=True)
def _eve(device: Machine) -> Iterator[None]:
    """Eve has room for 50 MiB, two aliases and all that nobody has."""
    add = ["darkpipe", "user", "add", EVE, "--quota", "50M", "--password-stdin"]
    # With a LAN: Postfix's processes learn the device's addresses when they start, and stay for the tests after these.
    with device.lan():
        device.run(*add, stdin=f"{PASSWORD}\n".encode())
        device.run("darkpipe", "alias", "add", "gifts@example.org", EVE)
        device.run("darkpipe", "alias", "add", "more-gifts@example.org", "gifts@example.org")
        device.run("darkpipe", "alias", "add", "dave-too@example.org", "dave@example.org")
        device.run("darkpipe", "alias", "add", BOTH, ALICE, EVE)
        device.run("darkpipe", "domain", "catch-all", "example.org", EVE)
    yield
    with device.lan():
        device.run("darkpipe", "domain", "catch-all", "example.org", "none")
        for address in (BOTH, "dave-too@example.org", "more-gifts@example.org", "gifts@example.org"):
            device.run("darkpipe", "alias", "remove", address)
        device.run("darkpipe", "user", "remove", EVE)
    device.run("rm", "-rf", "/data/mail/example.org/eve")


@pytest.fixture(autouse=True)
def _empty(device: Machine) -> None:
    device.run("doveadm", "expunge", "-u", EVE, "mailbox", "*", "all", check=False)


def _session(client: Client) -> smtplib.SMTP:
    return client.call(smtplib.SMTP, HOME_ADDRESS, 25, "client.example.net", 30)


def _send(client: Client, recipient: str, size: int = 0) -> str:
    """Send a message of at least so many octets and give its subject."""
    subject = f"test {uuid.uuid4()}"
    body = ("x" * 98 + "\r\n") * (size // 100 + 1)
    with _session(client) as session:
        session.sendmail("a@example.net", recipient, mail.letter(subject, "a@example.net", recipient, body))
    return subject


def _mailbox(client: Client, user: str = EVE) -> imaplib.IMAP4_SSL:
    return client.call(mail.mailbox, 993, user, PASSWORD, host=HOME_ADDRESS)


def _received(client: Client, subject: str, user: str = EVE) -> bytes:
    mailbox = _mailbox(client, user)
    try:
        return mail.fetch(mailbox, subject)
    finally:
        mailbox.logout()


def _keep(device: Machine, mebibytes: float) -> None:
    """Put a large message into the mailbox."""
    lines = (b"x" * 98 + b"\r\n") * int(mebibytes * _MIB / 100)
    device.run("doveadm", "save", "-u", EVE, stdin=b"Subject: large\r\n\r\n" + lines)


def _fill(device: Machine) -> None:
    _keep(device, 49.5)
    # What fills it may be larger than the room that is left (quota_storage_grace).
    device.run("sendmail", "-f", "", EVE, stdin=b"Subject: the last one\n\n" + b"x\n" * _MIB)
    used = ["doveadm", "-f", "flow", "quota", "get", "-u", EVE]
    wait_for(lambda: re.search(r"Type=STORAGE Value=5[1-9]\d{3} ", device.run(*used)) is not None, "it is full")


def _answer(client: Client, recipient: str, size: int = 1000) -> tuple[int, bytes]:
    with _session(client) as session:
        session.ehlo()
        session.mail("a@example.net", [f"SIZE={size}"])
        code, text = session.rcpt(recipient)
        return code, text.split()[0]


@pytest.mark.parametrize(
    "recipient",
    [
        EVE,
        "Eve+shop@EXAMPLE.org",
        "gifts@example.org",
        "gifts+x@example.org",
        "more-gifts@example.org",
        "nobody-has-this@example.org",
    ],
)
def test_a_full_mailbox_is_said_in_the_session_for_each_of_its_addresses(
    device: Machine, client: Client, recipient: str
) -> None:
    assert _answer(client, recipient) == (250, b"2.1.5")
    _fill(device)
    assert _answer(client, recipient) == FULL
    # The others' are not.
    assert _answer(client, ALICE) == (250, b"2.1.5")
    assert _answer(client, "dave-too@example.org") == (250, b"2.1.5")


def test_what_does_not_fit_is_refused_and_what_fits_is_not(device: Machine, client: Client) -> None:
    _keep(device, 30)
    assert _answer(client, EVE, 15 * _MIB) == (250, b"2.1.5")
    assert _answer(client, EVE, 40 * _MIB) == FULL
    assert _answer(client, ALICE, 40 * _MIB) == (250, b"2.1.5")


def test_an_app_is_told_at_once(device: Machine, client: Client) -> None:
    _fill(device)
    context = mail.any_certificate()
    with client.call(smtplib.SMTP_SSL, HOME_ADDRESS, 465, "phone.example.net", timeout=30, context=context) as session:
        session.login(ALICE, PASSWORD)
        session.mail(ALICE)
        code, text = session.rcpt(EVE)
        assert (code, text.split()[0]) == FULL
        assert session.rcpt("friend@example.net")[0] == 250


def test_of_two_mailboxes_behind_an_alias_the_full_one_gets_its_mail_later(device: Machine, client: Client) -> None:
    _fill(device)
    subject = _send(client, BOTH)
    _received(client, subject, ALICE)
    wait_for(lambda: re.search("452 4.2.2 .*Quota exceeded", device.run("postqueue", "-j")) is not None, "it waits")
    device.run("doveadm", "expunge", "-u", EVE, "mailbox", "INBOX", "all")
    device.run("postqueue", "-f")
    _received(client, subject)


def test_a_script_cannot_get_around_it(device: Machine, client: Client) -> None:
    home = "/data/mail/example.org/eve"
    _fill(device)
    script = b'require "fileinto"; fileinto "Archive";'
    device.run("sh", "-c", f"cat > {home}/.dovecot.sieve && chown vmail: {home}/.dovecot.sieve", stdin=script)
    try:
        device.run("sendmail", "-f", "a@example.net", EVE, stdin=b"Subject: sorted\n\nhello\n")
        wait_for(lambda: "Quota exceeded" in device.run("postqueue", "-j"), "it waits")
        device.run("doveadm", "expunge", "-u", EVE, "mailbox", "INBOX", "all")
        device.run("postqueue", "-f")
        mailbox = _mailbox(client)
        assert b"hello" in mail.fetch(mailbox, "sorted", "Archive")
        mailbox.logout()
    finally:
        device.run("rm", f"{home}/.dovecot.sieve")


def test_the_user_is_warned_at_90_percent(client: Client) -> None:
    _send(client, EVE, 46 * _MIB)
    warning = _received(client, "Your mailbox is 90 % full")
    assert b"Auto-Submitted: auto-generated" in warning
    assert f"Your mailbox {EVE} is 90 % full.".encode() in warning


def test_apps_can_show_the_room_that_is_left(device: Machine, client: Client) -> None:
    _keep(device, 10)
    mailbox = _mailbox(client)
    _, (_, roots) = mailbox.getquotaroot("INBOX")
    mailbox.logout()
    found = re.search(rb"STORAGE (\d+) 51200", b" ".join(root for root in roots if isinstance(root, bytes)))
    assert found, roots
    assert 10 * 1024 - 2 <= int(found[1]) <= 10 * 1024 + 2
    others = _mailbox(client, ALICE)
    _, (_, unlimited) = others.getquotaroot("INBOX")
    others.logout()
    assert b"STORAGE" not in b" ".join(root for root in unlimited if isinstance(root, bytes))


def test_an_app_cannot_store_more_than_fits(device: Machine, client: Client) -> None:
    _fill(device)
    mailbox = _mailbox(client)
    status, (text, *_) = mailbox.append("INBOX", "", "", b"Subject: one more\r\n\r\nhello\r\n")
    mailbox.logout()
    assert status == "NO"
    assert isinstance(text, bytes)
    assert text.startswith(b"[OVERQUOTA]")
