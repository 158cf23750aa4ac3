"""Submission: what mail apps send through the ports 465 and 587 after a login, and what nobody may send."""

from __future__ import annotations

import base64
import email
import re
import smtplib
import socket
import ssl
import uuid
from email.message import Message
from pathlib import Path

import pytest

from tests import mail
from tests.machine.conftest import PASSWORD
from tests.machine.machine import CLIENT_ADDRESS, HOME_ADDRESS, HOME_ADDRESS_6, Client, Machine

ALICE = "alice@example.com"
DAVE = "dave@example.org"

APP = "phone.example.net"
"""How the app calls itself in EHLO."""

both_ports = pytest.mark.parametrize("port", [465, 587])


def _submit(
    client: Client, port: int, sender: str, recipient: str, message: Path | None = None, password: str = PASSWORD
) -> tuple[int, str]:
    """Send by swaks, logged in as Alice; gives its exit status and transcript."""
    tls = "--tls-on-connect" if port == 465 else "--tls"
    options = [tls, "--ehlo", APP, "--auth", "PLAIN", "--auth-user", ALICE, "--auth-password", password]
    done = client.call(mail.swaks, port, sender, recipient, message, HOME_ADDRESS, options)
    return done.returncode, done.stdout + done.stderr


def _session(
    client: Client, port: int, user: str = "", password: str = PASSWORD, address: str = HOME_ADDRESS
) -> smtplib.SMTP:
    """Open a session under TLS, and log in when a user is named."""
    context = mail.any_certificate()
    session: smtplib.SMTP
    if port == 465:
        session = client.call(smtplib.SMTP_SSL, address, port, APP, timeout=30, context=context)
    else:
        session = client.call(smtplib.SMTP, address, port, APP, 30)
        session.starttls(context=context)
    session.ehlo()
    if user:
        session.login(user, password)
    return session


def _plain(user: str, password: str) -> str:
    return "PLAIN " + base64.b64encode(f"\0{user}\0{password}".encode()).decode()  # RFC 4616 §2


def _received(client: Client, subject: str, user: str = DAVE) -> bytes:
    mailbox = client.call(mail.mailbox, 993, user, PASSWORD, host=HOME_ADDRESS)
    try:
        return mail.fetch(mailbox, subject)
    finally:
        mailbox.logout()


def _subject() -> str:
    return f"test {uuid.uuid4()}"


@both_ports
def test_a_message_to_another_user_arrives_as_it_was_written(client: Client, tmp_path: Path, port: int) -> None:
    subject = _subject()
    text = "\n".join(
        (
            f"From: Alice <{ALICE}>",
            f"To: {DAVE}",
            f"Subject: {subject}",
            "Date: Mon, 23 Nov 2026 01:02:03 +0000",
            f"Message-ID: <{uuid.uuid4()}@example.net>",
            "Received: from a.example.net (a.example.net [198.51.100.7])",
            "\tby b.example.net (Postfix) with ESMTPSA id ABC; Mon, 23 Nov 2026 01:02:02 +0000",
            "X-Originating-IP: [198.51.100.8]",
            "User-Agent: app/1",
            "",
            "Grüße",
            ".",
            "Received: from the text",
        )
    )
    path = tmp_path / "message"
    path.write_text(text)
    status, transcript = _submit(client, port, ALICE, DAVE, path)
    assert status == 0, transcript
    received = _received(client, subject)
    assert mail.without_trace(received) == f"{text}\n".replace("\n", "\r\n").encode()


@both_ports
def test_received_does_not_tell_where_the_user_is(client: Client, device: Machine, port: int) -> None:
    subject = _subject()
    with _session(client, port, ALICE) as session:
        session.sendmail(ALICE, [DAVE, ALICE], f"From: {ALICE}\r\nSubject: {subject}\r\n\r\nhello\r\n")
    received = _received(client, subject)
    assert CLIENT_ADDRESS.encode() not in received
    assert APP.encode() not in received
    traces = email.message_from_bytes(received).get_all("Received") or []
    ours = [re.sub(r"\s+", " ", trace) for trace in traces if "ESMTPSA" in trace]
    assert len(ours) == 1
    found = re.fullmatch(r"by mx\.example\.com \(Postfix\) with ESMTPSA id (\w+); .*\d{4} .*", ours[0])
    assert found, ours
    # Whoever runs the device can still find out.
    log = device.run("journalctl", "--boot", "--no-pager", "--output=cat", "--unit=postfix.service")
    assert re.search(rf"{found[1]}: client=.*\[{CLIENT_ADDRESS}\].* sasl_username={ALICE}", log)


def test_port_25_says_who_has_sent(client: Client) -> None:
    subject = _subject()
    with client.call(smtplib.SMTP, HOME_ADDRESS, 25, APP, 30) as session:
        session.sendmail("a@example.net", DAVE, f"Subject: {subject}\r\n\r\nhello\r\n")
    assert f"Received: from {APP} (unknown [{CLIENT_ADDRESS}])".encode() in _received(client, subject)


@pytest.mark.parametrize(("port", "added"), [(465, True), (587, True), (25, False)])
def test_date_and_message_id_are_added_to_submitted_mail_only(client: Client, port: int, added: bool) -> None:
    subject = _subject()
    session = client.call(smtplib.SMTP, HOME_ADDRESS, 25, APP, 30) if port == 25 else _session(client, port, ALICE)
    with session:
        session.sendmail(ALICE, DAVE, f"From: {ALICE}\r\nSubject: {subject}\r\n\r\nhello\r\n")
    message: Message = email.message_from_bytes(_received(client, subject))
    assert ("Date" in message) == ("Message-ID" in message) == added
    if added:
        assert re.fullmatch(r"<[^@<>\s]+@mx\.example\.com>", message["Message-ID"])


@both_ports
@pytest.mark.parametrize(
    "sender",
    [
        "ALICE@Example.COM",
        "alice+shop@example.com",
        "sales@example.org",
        "sales+x@example.org",
        "info@xn--bcher-kva.example",
        "info@bücher.example",
        "postmaster@example.org",
        "",
    ],
)
def test_a_user_may_send_as_every_own_address(client: Client, port: int, sender: str) -> None:
    with _session(client, port, ALICE) as session:
        options = [] if sender.isascii() else ["SMTPUTF8"]
        session.command_encoding = "utf-8"
        assert session.mail(sender, options) == (250, b"2.1.0 Ok")
        assert session.rcpt(DAVE) == (250, b"2.1.5 Ok")


def test_a_receipt_has_no_sender_and_arrives(client: Client, tmp_path: Path) -> None:
    subject = _subject()
    path = tmp_path / "message"
    path.write_text(f"From: {ALICE}\nSubject: {subject}\n\nread\n")
    status, transcript = _submit(client, 465, "<>", DAVE, path)
    assert status == 0, transcript
    assert b"Return-Path: <>" in _received(client, subject)


@both_ports
@pytest.mark.parametrize(
    "sender",
    [
        DAVE,
        "dave+x@example.org",
        "bob@example.org",
        "nobody@example.com",
        "alice@example.org",
        "alice",
        "friend@example.net",
        '"alice@example.com"@example.net',
        "alice@example.com@example.net",
    ],
)
def test_a_user_may_send_as_nobody_else(client: Client, port: int, sender: str) -> None:
    with _session(client, port, ALICE) as session:
        code, text = session.docmd("MAIL", f"FROM:<{sender}>")
        assert (code, text[:5]) == (553, b"5.7.1"), text
        assert text.endswith(f"not owned by user {ALICE}".encode())
        assert session.rcpt(DAVE)[0] == 503


def test_roles_of_the_administrator_are_for_nobody_else(client: Client) -> None:
    with _session(client, 465, DAVE) as session:
        for sender in (ALICE, "postmaster@example.org", "sales@example.org"):
            assert session.mail(sender)[0] == 553
        assert session.mail(DAVE)[0] == 250


def test_the_name_for_logging_in_has_no_case(client: Client) -> None:
    with _session(client, 465, "Alice@EXAMPLE.com") as session:
        assert session.mail(ALICE)[0] == 250


@both_ports
@pytest.mark.parametrize("sender", [ALICE, "friend@example.net", ""])
@pytest.mark.parametrize("recipient", [DAVE, "friend@example.net"])
def test_nobody_sends_without_a_login(client: Client, port: int, sender: str, recipient: str) -> None:
    with _session(client, port) as session:
        code, text = session.mail(sender)
        assert (code, text[:5]) == (530, b"5.7.0"), text
        assert text.endswith(b"Authentication required")
        assert session.rcpt(recipient)[0] == 503


def test_no_password_is_asked_for_without_tls(client: Client) -> None:
    with client.call(smtplib.SMTP, HOME_ADDRESS, 587, APP, 30) as session:
        session.ehlo()
        assert session.has_extn("starttls")
        assert not session.has_extn("auth")
        for command in ("AUTH " + _plain(ALICE, PASSWORD), f"MAIL FROM:<{ALICE}>"):
            assert session.docmd(command) == (530, b"5.7.0 Must issue a STARTTLS command first")


def test_port_465_speaks_nothing_but_tls(client: Client) -> None:
    connection = client.call(socket.create_connection, (HOME_ADDRESS, 465), 30)
    with connection:
        connection.sendall(f"EHLO {APP}\r\n".encode())
        try:
            answer = connection.recv(100)
        except ConnectionResetError:
            answer = b""
    # The end or a TLS alert (RFC 8446 §5.1: 21), no reply of SMTP.
    assert answer[:1] in {b"", b"\x15"}


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_old_tls_is_refused(client: Client) -> None:
    context = mail.old_tls()
    with pytest.raises(ssl.SSLError):
        client.call(smtplib.SMTP_SSL, HOME_ADDRESS, 465, APP, timeout=30, context=context)
    with client.call(smtplib.SMTP, HOME_ADDRESS, 587, APP, 30) as session, pytest.raises(ssl.SSLError):
        session.starttls(context=context)


def test_port_25_knows_no_login(client: Client) -> None:
    context = mail.any_certificate()
    with client.call(smtplib.SMTP, HOME_ADDRESS, 25, APP, 30) as session:
        for _ in ("in the clear", "under TLS"):
            session.ehlo()
            assert not session.has_extn("auth")
            assert session.docmd("AUTH", _plain(ALICE, PASSWORD))[0] == 503
            if session.has_extn("starttls"):
                session.starttls(context=context)
        assert isinstance(session.sock, ssl.SSLSocket)
        session.ehlo()
        session.mail(ALICE)
        assert session.rcpt("friend@example.net")[0] == 554


@both_ports
@pytest.mark.parametrize("recipient", ["nobody@example.com", "alice@example.org", "root@mx.example.com"])
def test_an_unknown_recipient_at_home_is_refused_in_the_session(client: Client, port: int, recipient: str) -> None:
    with _session(client, port, ALICE) as session:
        session.mail(ALICE)
        code, text = session.rcpt(recipient)
        assert (code, text[:5]) == (550, b"5.1.1"), text


@both_ports
def test_mail_to_the_outside_waits_and_nothing_leaves(client: Client, device: Machine, port: int) -> None:
    # An address that leads straight to a server that would take the message.
    recipient = f"friend-{uuid.uuid4()}@[{CLIENT_ADDRESS}]"
    listener = client.call(socket.create_server, (CLIENT_ADDRESS, 25))
    try:
        status, transcript = _submit(client, port, ALICE, recipient)
        assert status == 0, transcript
        waiting = f"until postqueue -p | grep -qF '{recipient}'; do sleep 0.2; done"
        device.run("timeout", "30", "sh", "-c", waiting)
        told = "until postqueue -j | grep -F '{}' | grep -q 'no relay is paired yet'; do sleep 0.2; done"
        device.run("timeout", "30", "sh", "-c", told.format(recipient))
        listener.settimeout(1)
        with pytest.raises(TimeoutError):
            listener.accept()
    finally:
        listener.close()


def test_who_has_sent_a_message_hears_that_it_still_waits(client: Client, device: Machine) -> None:
    """After four hours, of which cleanup(8) makes seconds here; the notice says to whom, and why."""
    recipient = f"friend-{uuid.uuid4()}@example.net"
    configuration = "/data/darkpipe/config/current/postfix/master.cf"
    shipped = device.run("cat", configuration)
    assert shipped.count("delay_warning_time=4h") == 2

    def restart_with(seconds: str) -> None:
        device.run("sed", "-i", f"0,/delay_warning_time=.*/s//delay_warning_time={seconds}/", configuration)
        device.run("systemctl", "restart", "postfix")

    restart_with("2s")
    try:
        status, transcript = _submit(client, 465, ALICE, recipient)
        assert status == 0, transcript
        deferred = f"until postqueue -j | grep -F '{recipient}' | grep -q 'no relay'; do sleep 0.2; done"
        device.run("timeout", "30", "sh", "-c", f"{deferred}; sleep 3; postqueue -f")
        notice = " ".join(_received(client, "Delayed Mail (still being retried)", ALICE).decode().split())
    finally:
        restart_with("4h")
    assert recipient in notice
    assert "no relay is paired yet" in notice
    assert "Action: delayed" in notice
    assert "no relay is paired yet" in notice
    assert "for more than 4 hour(s)" in notice
    assert device.run("cat", configuration) == shipped


@both_ports
def test_a_message_that_is_too_large_is_refused(client: Client, port: int) -> None:
    largest = 50 * 1024 * 1024
    refused = b"5.3.4 "
    with _session(client, port, ALICE) as session:
        assert session.esmtp_features["size"] == str(largest)
        code, text = session.mail(ALICE, [f"SIZE={largest + 1}"])
        assert (code, text[:6]) == (552, refused)
        session.rset()
        # An app that does not say beforehand is told at the end.
        assert session.mail(ALICE)[0] == session.rcpt(DAVE)[0] == 250
        code, text = session.data(b"Subject: large\r\n\r\n" + (b"x" * 98 + b"\r\n") * (largest // 100 + 1))
        assert (code, text[:6]) == (552, refused)


def test_who_checks_passwords_listens_to_postfix_only(device: Machine) -> None:
    assert device.run("stat", "--format=%a %U", "/run/dovecot-postfix/submission-login") == "600 postfix\n"


# Last, and over IPv6: a client that has guessed is left waiting, and the tests before and after this come by IPv4.
@pytest.mark.parametrize(
    ("port", "mechanism", "user", "password"),
    [(465, "PLAIN", ALICE, "wrong"), (587, "LOGIN", "nobody@example.com", PASSWORD)],
)
def test_a_wrong_password_is_refused(client: Client, port: int, mechanism: str, user: str, password: str) -> None:
    with _session(client, port, address=HOME_ADDRESS_6) as session:
        session.user, session.password = user, password
        answer = session.auth_plain if mechanism == "PLAIN" else session.auth_login
        with pytest.raises(smtplib.SMTPAuthenticationError) as refusal:
            session.auth(mechanism, answer)
        assert refusal.value.smtp_code == 535
        # The same for whoever exists and whoever does not.
        assert str(refusal.value.smtp_error).startswith("b'5.7.8 Error: authentication failed")
        assert session.mail(ALICE)[0] == 530


@both_ports
def test_passwords_cannot_be_tried_without_end(client: Client, port: int) -> None:
    for _ in range(4):  # Postfix slows a session down after ten mistakes
        with _session(client, port, address=HOME_ADDRESS_6) as session:
            for _ in range(8):
                session.docmd("AUTH", "NONE")
    with _session(client, port, address=HOME_ADDRESS_6) as session:
        code, text = session.docmd("AUTH", _plain(ALICE, PASSWORD))
        assert (code, text[:5]) == (450, b"4.7.1"), text
    _session(client, port, ALICE).quit()  # others are not concerned
