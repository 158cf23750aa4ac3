"""Spam: verdicts, what forged ones are worth, greylisting, Junk, and how moving mail teaches rspamd."""

from __future__ import annotations

import imaplib
import random
import re
import shutil
import smtplib
import ssl
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tests import mail
from tests.machine.conftest import PASSWORD, SEED
from tests.machine.machine import CLIENT_ADDRESS, HOME_ADDRESS, STRANGER_ADDRESS, Client, Machine

ALICE = "alice@example.com"
GTUBE = "XJS*C4JDBQADN1.NSBN3*2IDNEN*GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X"
"""What every spam filter takes for spam (rspamd: gtube_patterns)."""

_SPAM = "pills casino lottery winner bitcoin urgent transfer prince million inheritance enlarge viagra jackpot refund"
_HAM = "grandma garden recipe holiday school football homework birthday cake photos weekend bicycle piano kitten train"
_TAUGHT = 30
"""So many of each kind until Bayes speaks (min_learns in classifier-bayes.conf)."""


def _subject() -> str:
    return f"test {uuid.uuid4()}"


def _message(subject: str, body: str = "hello", fields: Sequence[str] = ()) -> bytes:
    head = ("From: Stranger <stranger@example.net>", f"To: {ALICE}", f"Subject: {subject}")
    date = ("Date: Mon, 23 Nov 2026 01:02:03 +0000", f"Message-ID: <{uuid.uuid4()}@example.net>")
    return "\r\n".join((*fields, *head, *date, "", body, "")).encode()


def _send(client: Client, message: bytes, source: str = CLIENT_ADDRESS) -> tuple[int, bytes]:
    """Send through port 25; gives the answer to the message."""
    session = client.call(smtplib.SMTP, HOME_ADDRESS, 25, "mx.example.net", 30, source_address=(source, 0))
    with session:
        session.ehlo()
        assert session.mail("stranger@example.net")[0] == session.rcpt(ALICE)[0] == 250
        return session.data(message)


def _submit(client: Client, message: bytes, source: str = CLIENT_ADDRESS) -> None:
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


def _mailbox(client: Client) -> imaplib.IMAP4_SSL:
    return client.call(mail.mailbox, 993, ALICE, PASSWORD, host=HOME_ADDRESS)


def _received(client: Client, subject: str, folder: str = "INBOX") -> bytes:
    mailbox = _mailbox(client)
    try:
        return mail.fetch(mailbox, subject, folder)
    finally:
        mailbox.logout()


@pytest.fixture(scope="module")
def pupil(new_machine: Callable[[str], Machine]) -> Iterator[Machine]:
    """A device whose rspamd is stopped, started and taught."""
    machine = new_machine(SEED).start()
    yield machine
    machine.stop()


# ---- Verdicts


def test_every_message_from_outside_carries_a_verdict(client: Client) -> None:
    subject = _subject()
    assert _send(client, _message(subject))[0] == 250
    received = _received(client, subject)
    assert re.search(rb"^X-Spamd-Result: default: False \[-?[0-9.]+ / 15\.00\];", received, re.MULTILINE)
    assert re.search(rb"^Authentication-Results: mx\.example\.com;", received, re.MULTILINE)
    assert b"\nX-Spam: " not in received


@pytest.mark.parametrize("way", ["port 25", "submission"])
def test_forged_verdicts_are_taken_out(client: Client, way: str) -> None:
    subject = _subject()
    forged = (
        "Authentication-Results: mx.example.com; dkim=pass header.d=forged.example",
        'authentication-results: (a (nested) one)\r\n\t"MX.Example.COM" (another) 1; spf=pass header.d=forged.example',
        "Authentication-Results:mx.example.com;arc=pass header.d=forged.example",
        "X-Spam: Yes",
        "X-SPAM: yes",
        "X-Spam-Status: No, forged",
        "X-Spamd-Result: forged",
    )
    message = _message(subject, fields=forged)
    if way == "submission":
        _submit(client, message.replace(b"Stranger <stranger@example.net>", ALICE.encode()))
    else:
        assert _send(client, message)[0] == 250
    received = _received(client, subject)  # and not in Junk
    assert b"forged" not in received
    assert b"\nX-Spam: " not in received


@pytest.mark.parametrize(
    "field",
    [
        "Authentication-Results: mx.example.com; dkim=pass header.d=forged.example",
        'authentication-results: (a (nested) one)\r\n\t"MX.Example.COM" (another) 1; spf=pass header.d=forged.example',
        "Authentication-Results:mx.example.com;arc=pass header.d=forged.example",
    ],
)
def test_forged_results_are_known_in_every_form(client: Client, field: str) -> None:
    subject = _subject()
    assert _send(client, _message(subject, fields=[field]))[0] == 250
    assert b"forged" not in _received(client, subject)


def test_results_of_others_stay(client: Client) -> None:
    subject = _subject()
    field = "Authentication-Results: notmx.example.com; spf=pass smtp.mailfrom=kept.example"
    assert _send(client, _message(subject, fields=[field]))[0] == 250
    assert field.encode() in _received(client, subject)


def test_spam_beyond_doubt_is_refused_in_the_session(client: Client) -> None:
    code, text = _send(client, _message(_subject(), GTUBE))
    assert (code, text[:5]) == (554, b"5.7.1"), text


def test_a_printer_may_leave_fields_out(client: Client) -> None:
    subject = _subject()
    assert _send(client, f"Subject: {subject}\r\n\r\nhello\r\n".encode())[0] == 250
    assert b"\nX-Spam: " not in _received(client, subject)


# ---- Greylisting


def test_a_doubtful_stranger_has_to_come_again_and_gets_into_junk(pupil: Machine) -> None:
    # Not five minutes.
    target = pupil.data / "darkpipe/config" / pupil.run("readlink", "/data/darkpipe/config/current").strip()
    settings = target / "rspamd/local.d/greylist.conf"
    before = settings.read_text()
    assert "timeout = 5min;" in before
    settings.write_text(before.replace("timeout = 5min;", "timeout = 3s;"))
    pupil.run("systemctl", "restart", "rspamd")
    try:
        with pupil.lan() as client:
            subject = _subject()
            message = _message(subject).replace(b"Stranger <stranger@example.net>", ALICE.encode())
            code, text = _send(client, message, STRANGER_ADDRESS)
            assert (code, text[:5]) == (451, b"4.7.1"), text
            assert b"Greylisted" in text
            # Who has logged in is no stranger, wherever he is.
            own = _subject()
            _submit(client, _message(own).replace(b"Stranger <stranger@example.net>", ALICE.encode()), STRANGER_ADDRESS)
            assert own.encode() in _received(client, own)
            deadline = time.monotonic() + 30
            while code == 451 and time.monotonic() < deadline:
                time.sleep(0.5)
                code, text = _send(client, message, STRANGER_ADDRESS)
            assert code == 250, text
            # No name in the DNS, and other small faults: more than a doubt, less than a certainty.
            received = _received(client, subject, "Junk")
            assert b"\nX-Spam: Yes\r\n" in received
            # It claimed to come from Alice, and nobody has logged in.
            assert b"DKIM-Signature" not in received
    finally:
        settings.write_text(before)
        pupil.run("systemctl", "restart", "rspamd")


def _anywhere(client: Client, subject: str) -> bytes:
    mailbox = _mailbox(client)
    try:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            for folder in ("INBOX", "Junk"):
                mailbox.select(folder, readonly=True)
                _, found = mailbox.search(None, "HEADER", "Subject", f'"{subject}"')
                if found[0]:
                    return mail.fetch(mailbox, subject, folder)
            time.sleep(0.2)
    finally:
        mailbox.logout()
    raise AssertionError(f"no message with subject {subject!r} came")


# ---- Without


def test_without_rspamd_nothing_comes_in_and_nothing_is_lost(pupil: Machine) -> None:
    subject = _subject()
    with pupil.lan() as client:
        pupil.run("systemctl", "stop", "rspamd")
        try:
            session = client.call(smtplib.SMTP, HOME_ADDRESS, 25, "mx.example.net", 30)
            with session, pytest.raises(smtplib.SMTPException) as refusal:
                session.sendmail("stranger@example.net", ALICE, _message(subject))
            assert "451" in str(refusal.value) or "454" in str(refusal.value)
            # What is there can be read and sorted.
            mailbox = _mailbox(client)
            mailbox.append("INBOX", "", imaplib.Time2Internaldate(time.time()), _message(f"sorted {subject}"))
            mailbox.select("INBOX")
            _, found = mailbox.search(None, "HEADER", "Subject", f'"sorted {subject}"')
            status, _ = mailbox.uid("MOVE", _uid(mailbox, found[0].decode()), "Junk")
            assert status == "OK"
            assert mail.fetch(mailbox, f"sorted {subject}", "Junk")
            mailbox.logout()
        finally:
            pupil.run("systemctl", "start", "rspamd")
        assert _send(client, _message(subject))[0] == 250
        assert subject.encode() in _received(client, subject)


def test_without_valkey_mail_comes_in(pupil: Machine) -> None:
    subject = _subject()
    pupil.run("systemctl", "stop", "valkey")
    try:
        with pupil.lan() as client:
            started = time.monotonic()
            assert _send(client, _message(subject))[0] == 250
            assert time.monotonic() - started < 20
            assert subject.encode() in _received(client, subject)
    finally:
        pupil.run("systemctl", "start", "valkey")


def test_without_internet_nobody_waits_long(pupil: Machine) -> None:
    with pupil.lan() as client:
        # A way out that leads nowhere: no answer and no error comes back.
        pupil.run("ip", "route", "add", "default", "via", CLIENT_ADDRESS)
        links = " ".join(f"https://shop-{number}.example.net/x" for number in range(20))
        started = time.monotonic()
        code, text = _send(client, _message(_subject(), links), STRANGER_ADDRESS)
        elapsed = time.monotonic() - started
        pupil.run("ip", "route", "delete", "default")
    print(f"{code} after {elapsed:.2f} s")
    assert code in {250, 451}, text
    assert elapsed < 20  # rspamd gives up after four seconds (task_timeout)


# ---- Compiled patterns


def test_compiled_patterns_last_and_rubbish_among_them_does_no_harm(pupil: Machine) -> None:
    def largest() -> Path:
        return max((pupil.data / "rspamd").glob("*.hsmp"), key=lambda path: path.stat().st_size)

    before = largest().stat()
    assert before.st_size > 20_000_000, "the public suffix list"
    copy = largest().with_suffix(".hsmp.unser")
    copy.write_bytes(b"\xff" * copy.stat().st_size)  # as a power cut may leave it
    shutil.chown(copy, before.st_uid, before.st_gid)
    pupil.run("systemctl", "restart", "rspamd")
    subject = _subject()
    with pupil.lan() as client:
        assert _send(client, _message(subject, "www.example.net, https://example.org/a"))[0] == 250
        assert subject.encode() in _received(client, subject)
    assert largest().stat().st_mtime_ns == before.st_mtime_ns, "it was compiled again"
    assert copy.read_bytes()[:8] != b"\xff" * 8


def test_damaged_patterns_are_compiled_again(pupil: Machine) -> None:
    (largest,) = [path for path in (pupil.data / "rspamd").glob("*.hsmp") if path.stat().st_size > 20_000_000]
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 0xFF
    pupil.run("systemctl", "stop", "rspamd")
    owner = largest.stat()
    largest.unlink()  # other machines of these tests have it too
    largest.write_bytes(content)
    shutil.chown(largest, owner.st_uid, owner.st_gid)
    pupil.run("systemctl", "start", "rspamd")
    subject = _subject()
    with pupil.lan() as client:
        assert _send(client, _message(subject, "www.example.net, https://example.org/a"))[0] == 250
        assert subject.encode() in _received(client, subject)


# ---- Learning


def _uid(mailbox: imaplib.IMAP4_SSL, number: str) -> str:
    _, answer = mailbox.fetch(number, "(UID)")
    row = answer[0]
    assert isinstance(row, bytes)
    found = re.search(rb"UID (\d+)", row)
    assert found
    return found[1].decode()


def _text(words: str) -> str:
    return "\r\n".join(" ".join(random.choices(words.split(), k=8)) for _ in range(6))


def _move(mailbox: imaplib.IMAP4_SSL, source: str, target: str, words: str, count: int) -> None:
    """Put messages into a folder, and move them to another one."""
    for _ in range(count):
        mailbox.append(source, "", imaplib.Time2Internaldate(time.time()), _message(_subject(), _text(words)))
    mailbox.select(source)
    status, _ = mailbox.uid("MOVE", "1:*", target)
    assert status == "OK"


def _learned(machine: Machine) -> tuple[int, int]:
    """So many messages were learnt as spam and as ham."""
    stat = machine.run("rspamc", "--connect=/run/rspamd-learn/controller.sock", "stat")
    found = {kind: int(count) for kind, count in re.findall(r"Statfile: (BAYES_\w+) .*?learned: (\d+)", stat)}
    return found["BAYES_SPAM"], found["BAYES_HAM"]


def _wait_for_learned(machine: Machine, spam: int, ham: int) -> None:
    """Wait for the counts, which rspamd refreshes now and then."""
    deadline = time.monotonic() + 120
    while (found := _learned(machine)) != (spam, ham):
        assert time.monotonic() < deadline, f"expected {spam} and {ham}, found {found}"
        time.sleep(1)


def test_moving_mail_teaches(pupil: Machine) -> None:
    with pupil.lan() as client:
        mailbox = _mailbox(client)
        for folder in ("INBOX", "Junk", "Archive"):
            mailbox.select(folder)
            mailbox.uid("STORE", "1:*", "+FLAGS", r"(\Deleted)")
            mailbox.expunge()
        spam, ham = _learned(pupil)
        # Put there by an app, deleted from there, or sorted elsewhere: no lesson, as the counts will show.
        _move(mailbox, "Junk", "Trash", _SPAM, 2)
        _move(mailbox, "INBOX", "Archive", _HAM, 2)
        _move(mailbox, "INBOX", "Junk", _SPAM, _TAUGHT)
        mailbox.select("Junk")
        mailbox.uid("STORE", "1:*", "+FLAGS", r"(\Deleted)")
        mailbox.expunge()
        _move(mailbox, "Junk", "INBOX", _HAM, _TAUGHT)
        mailbox.logout()
        _wait_for_learned(pupil, spam + _TAUGHT, ham + _TAUGHT)
        for words, symbol in ((_SPAM, b"BAYES_SPAM"), (_HAM, b"BAYES_HAM")):
            subject = _subject()
            assert _send(client, _message(subject, _text(words)))[0] == 250
            assert symbol in _anywhere(client, subject)
    pupil.restart()
    _wait_for_learned(pupil, spam + _TAUGHT, ham + _TAUGHT)


# ---- The device


def test_nothing_phones_home(device: Machine) -> None:
    variables = ("--var=CONFDIR=/usr/share/rspamd/debian", "--var=LOCAL_CONFDIR=/etc/rspamd")
    dump = device.run("rspamadm", *variables, "configdump", "--config=/etc/rspamd/rspamd.conf")
    assert "dkim_signing {" in dump
    assert [row for row in dump.splitlines() if re.search(r"https?://\w", row) and "description" not in row] == []
    denied = device.run("systemctl", "show", "--property=IPAddressDeny", "--value", "rspamd")
    assert set(denied.split()) == {"0.0.0.0/0", "::/0"}


def test_rspamd_and_valkey_listen_on_no_port(device: Machine) -> None:
    listening = device.run("ss", "--listening", "--numeric", "--processes", "--tcp", "--udp")
    assert "unbound" in listening
    assert not re.search("rspamd|valkey", listening)


def test_sockets_are_for_whom_they_are_made(device: Machine) -> None:
    folders = device.run("stat", "--format=%n %a %U:%G", "/run/rspamd-postfix", "/run/rspamd-learn", "/run/valkey")
    assert folders.splitlines() == [
        "/run/rspamd-postfix 710 _rspamd:postfix",
        "/run/rspamd-learn 710 _rspamd:vmail",
        "/run/valkey 710 valkey:_rspamd",
    ]


def test_the_idle_device_is_small(device: Machine) -> None:
    script = "cat /proc/[0-9]*/smaps_rollup 2>/dev/null | awk '/^Pss:/ { sum += $2 } END { print sum }'"
    total = int(device.run("sh", "-c", script)) / 1024
    print(f"{total:.0f} MiB")
    assert total < 600


# ---- Who may ask rspamd for what

_FORGE = """\
import http.client, socket, sys
connection = http.client.HTTPConnection("localhost")
connection.sock = socket.socket(socket.AF_UNIX)
connection.sock.connect("/run/rspamd-learn/controller.sock")
who = {"User": "alice@example.com", "From": "alice@example.com", "Rcpt": "bob@example.org", "IP": "127.0.0.1"}
connection.request("POST", "/checkv2", sys.stdin.buffer.read(), who)
print(connection.getresponse().read().decode())
"""


def test_who_may_teach_may_not_have_mail_signed(device: Machine) -> None:
    pid = device.run("systemctl", "show", "--property=MainPID", "--value", "dovecot").strip()
    inside = ["nsenter", f"--target={pid}", "--mount", "--", "setpriv", "--reuid=vmail", "--regid=vmail"]
    message = _message(_subject()).replace(b"Stranger <stranger@example.net>", ALICE.encode())
    answer = device.run(*inside, "--clear-groups", "python3", "-c", _FORGE, stdin=message)
    assert '"action":"reject"' in answer
    assert "FROM_NOT_OWN" in answer
    assert "dkim-signature" not in answer.lower()


@pytest.mark.parametrize("service", ["rspamd", "valkey"])
def test_a_service_comes_back_however_often_it_dies(pupil: Machine, service: str) -> None:
    for _ in range(7):
        pupil.run("systemctl", "kill", "--signal=KILL", service)
        pupil.run("timeout", "60", "sh", "-c", f"until systemctl is-active --quiet {service}; do sleep 0.1; done")
