"""Sieve: rules that sort mail when it arrives, what they send, and ManageSieve, by which apps edit them."""

from __future__ import annotations

import json
import smtplib
import uuid
from collections.abc import Iterator

import pytest

from tests import mail
from tests.machine.conftest import PASSWORD
from tests.machine.machine import HOME_ADDRESS, Client, Machine, wait_for
from tests.sieve import SieveError, SieveSession

DAVE = "dave@example.org"
_HOME = "/data/mail/example.org/dave"


def _edit(client: Client) -> SieveSession:
    """Log in as Dave."""
    session = client.call(SieveSession, HOME_ADDRESS)
    session.start_tls()
    session.login(DAVE, PASSWORD)
    return session


@pytest.fixture(autouse=True)
def _no_script_is_left(device: Machine) -> Iterator[None]:
    yield
    device.run("rm", "-rf", f"{_HOME}/sieve", f"{_HOME}/.dovecot.sieve")


def _activate(client: Client, script: str) -> None:
    with _edit(client) as session:
        session.put("rules", script)
        session.activate("rules")


def _send(client: Client, recipient: str = DAVE, sender: str = "stranger@example.net", header: str = "") -> str:
    """Send a message and give its subject."""
    subject = f"test {uuid.uuid4()}"
    message = (
        f"From: {sender or 'nobody@example.net'}\r\nTo: {recipient}\r\nSubject: {subject}\r\n{header}\r\nhello\r\n"
    )
    with client.call(smtplib.SMTP, HOME_ADDRESS, 25, "client.example.net", 30) as session:
        session.sendmail(sender, recipient, message)
    return subject


def _received(client: Client, subject: str, folder: str = "INBOX") -> bytes:
    mailbox = client.call(mail.mailbox, 993, DAVE, PASSWORD, host=HOME_ADDRESS)
    try:
        return mail.fetch(mailbox, subject, folder)
    finally:
        mailbox.logout()


def _waiting(device: Machine, recipient: str) -> list[dict[str, str]]:
    """The messages in the queue for an address."""
    messages = map(json.loads, device.run("postqueue", "-j").splitlines())
    return [message for message in messages if recipient in {to["address"] for to in message["recipients"]}]


def test_no_password_is_asked_for_without_tls(client: Client) -> None:
    with client.call(SieveSession, HOME_ADDRESS) as session:
        assert "STARTTLS" in session.capabilities
        assert session.capabilities["SASL"] == ""
        with pytest.raises(SieveError, match="ENCRYPT-NEEDED"):
            session.login(DAVE, PASSWORD)
    with client.call(SieveSession, HOME_ADDRESS) as session:
        session.start_tls()
        assert set(session.capabilities["SASL"].split()) == {"PLAIN", "LOGIN"}
        session.login(DAVE, PASSWORD)


def test_rules_that_an_app_has_stored_sort_mail(client: Client) -> None:
    _activate(
        client, 'require ["fileinto", "subaddress", "envelope"];\nif envelope :detail "to" "shop" {fileinto "Archive";}'
    )
    assert _received(client, _send(client, "dave+shop@example.org"), "Archive")
    assert _received(client, _send(client), "INBOX")


def test_a_wrong_script_is_refused_and_the_old_one_stays(client: Client) -> None:
    _activate(client, 'require "fileinto";\nfileinto "Archive";')
    with _edit(client) as session:
        for script in ('fileinto "Junk";', "keep", 'require "no-such-extension";', "keep;" * 300_000):
            with pytest.raises(SieveError, match="NO"):
                session.put("rules", script)
    assert _received(client, _send(client), "Archive")


@pytest.mark.parametrize(
    "script", ["keep", 'require "fileinto"; fileinto "no/such/../folder";', 'require ["vnd.dovecot.execute"];', "\0"]
)
def test_a_broken_script_loses_no_mail(device: Machine, client: Client, script: str) -> None:
    # Past ManageSieve, as from a backup or an older version.
    device.run("mkdir", "-p", f"{_HOME}/sieve")
    device.run("tee", f"{_HOME}/sieve/broken.sieve", stdin=script.encode())
    device.run("ln", "-sfn", "sieve/broken.sieve", f"{_HOME}/.dovecot.sieve")
    device.run("chown", "-Rh", "vmail:vmail", f"{_HOME}/sieve", f"{_HOME}/.dovecot.sieve")
    assert _received(client, _send(client), "INBOX")


def test_nothing_that_would_bounce_or_run_programs_is_on_offer(client: Client) -> None:
    with _edit(client) as session:
        offered = set(session.capabilities["SIEVE"].split())
    wanted = {
        "fileinto",
        "vacation",
        "subaddress",
        "envelope",
        "imap4flags",
        "copy",
        "body",
        "variables",
        "regex",
        "date",
    }
    assert wanted <= offered
    assert not offered & {
        "enotify",
        "reject",
        "ereject",
        "vnd.dovecot.execute",
        "vnd.dovecot.pipe",
        "vnd.dovecot.filter",
    }


def test_what_is_redirected_to_the_outside_leaves_as_ours(device: Machine, client: Client) -> None:
    target = f"friend-{uuid.uuid4()}@elsewhere.example"
    _activate(client, f'require "copy";\nredirect :copy "{target}";')
    subject = _send(client)
    sent = _received(client, subject)
    wait_for(lambda: bool(_waiting(device, target)), "the redirected message")
    (message,) = _waiting(device, target)
    assert message["sender"].startswith("SRS0=")
    assert message["sender"].endswith("=example.net=stranger@mx.example.com")
    header = device.run("postcat", "-hq", message["queue_id"])
    assert "From: stranger@example.net\n" in header
    assert "To: dave@example.org\n" in header
    assert b"Return-Path: <stranger@example.net>" in sent


def test_what_is_redirected_to_another_user_keeps_its_sender(client: Client) -> None:
    _activate(client, 'redirect "alice@example.com";')
    subject = _send(client)
    mailbox = client.call(mail.mailbox, 993, "alice@example.com", PASSWORD, host=HOME_ADDRESS)
    received = mail.fetch(mailbox, subject)
    mailbox.logout()
    assert b"Return-Path: <stranger@example.net>" in received


def test_one_message_cannot_be_multiplied(device: Machine, client: Client) -> None:
    target = uuid.uuid4()
    redirects = "".join(f'redirect "friend-{number}-{target}@elsewhere.example";' for number in range(5))
    _activate(client, redirects)
    assert _received(client, _send(client), "INBOX")
    assert str(target) not in device.run("postqueue", "-j")


@pytest.mark.parametrize("recipient", [DAVE, "dave+shop@example.org"])
def test_an_absence_notice_is_sent_once_and_to_people_only(device: Machine, client: Client, recipient: str) -> None:
    sender = f"stranger-{uuid.uuid4()}@example.net"
    _activate(client, 'require "vacation";\nvacation :subject "away" "I am away";')
    for header in ("Precedence: bulk\r\n", "List-Id: <a.example.net>\r\n", "Auto-Submitted: auto-replied\r\n"):
        _received(client, _send(client, recipient, sender, header))
    _received(client, _send(client, recipient, ""))
    assert _waiting(device, sender) == []
    for _ in range(2):
        _received(client, _send(client, recipient, sender))
    wait_for(lambda: bool(_waiting(device, sender)), "the notice")
    (notice,) = _waiting(device, sender)
    assert notice["sender"] == "MAILER-DAEMON"  # the empty one
    text = device.run("postcat", "-q", notice["queue_id"])
    assert "Auto-Submitted: auto-replied (vacation)\n" in text
    assert "I am away" in text


def test_one_user_can_keep_so_many_scripts(client: Client) -> None:
    with _edit(client) as session:
        for number in range(64):
            session.put(f"script-{number}", "keep;")
        with pytest.raises(SieveError, match="QUOTA/MAXSCRIPTS"):
            session.put("one-too-many", "keep;")
