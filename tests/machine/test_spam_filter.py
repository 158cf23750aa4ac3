"""The spam filter on a device of its own: it is stopped, cut off, damaged, killed and taught; mail does not suffer."""

from __future__ import annotations

import imaplib
import random
import re
import shutil
import smtplib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import mail
from tests.machine.conftest import SEED
from tests.machine.machine import CLIENT_ADDRESS, HOME_ADDRESS, STRANGER_ADDRESS, Client, Machine
from tests.machine.spam import ALICE, delivered, letter, new_subject, open_mailbox, send, submit

_SPAM = "pills casino lottery winner bitcoin urgent transfer prince million inheritance enlarge viagra jackpot refund"
_HAM = "grandma garden recipe holiday school football homework birthday cake photos weekend bicycle piano kitten train"
_TAUGHT = 30
"""So many of each kind until Bayes speaks (min_learns in classifier-bayes.conf)."""


@pytest.fixture(scope="module")
def pupil(new_machine: Callable[[str], Machine]) -> Iterator[Machine]:
    """A device whose rspamd is stopped, started and taught."""
    machine = new_machine(SEED).start()
    yield machine
    machine.stop()


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
            subject = new_subject()
            message = letter(subject, sender=ALICE)
            code, text = send(client, message, STRANGER_ADDRESS)
            assert (code, text[:5]) == (451, b"4.7.1"), text
            assert b"Greylisted" in text
            # Who has logged in is no stranger, wherever he is.
            own = new_subject()
            submit(client, letter(own, sender=ALICE), STRANGER_ADDRESS)
            assert own.encode() in delivered(client, own)
            deadline = time.monotonic() + 30
            while code == 451 and time.monotonic() < deadline:
                time.sleep(0.5)
                code, text = send(client, message, STRANGER_ADDRESS)
            assert code == 250, text
            # No name in the DNS, and other small faults: more than a doubt, less than a certainty.
            received = delivered(client, subject, "Junk")
            assert b"\nX-Spam: Yes\r\n" in received
            # It claimed to come from Alice, and nobody has logged in.
            assert b"DKIM-Signature" not in received
    finally:
        settings.write_text(before)
        pupil.run("systemctl", "restart", "rspamd")


# ---- Without


def _uid(mailbox: imaplib.IMAP4_SSL, number: str) -> str:
    _, answer = mailbox.fetch(number, "(UID)")
    row = answer[0]
    assert isinstance(row, bytes)
    found = re.search(rb"UID (\d+)", row)
    assert found
    return found[1].decode()


def test_without_rspamd_nothing_comes_in_and_nothing_is_lost(pupil: Machine) -> None:
    subject = new_subject()
    with pupil.lan() as client:
        pupil.run("systemctl", "stop", "rspamd")
        try:
            session = client.call(smtplib.SMTP, HOME_ADDRESS, 25, "mx.example.net", 30)
            with session, pytest.raises(smtplib.SMTPException) as refusal:
                session.sendmail("stranger@example.net", ALICE, letter(subject))
            assert "451" in str(refusal.value) or "454" in str(refusal.value)
            # What is there can be read and sorted.
            mailbox = open_mailbox(client)
            mailbox.append("INBOX", "", imaplib.Time2Internaldate(time.time()), letter(f"sorted {subject}"))
            mailbox.select("INBOX")
            _, found = mailbox.search(None, "HEADER", "Subject", f'"sorted {subject}"')
            status, _ = mailbox.uid("MOVE", _uid(mailbox, found[0].decode()), "Junk")
            assert status == "OK"
            assert mail.fetch(mailbox, f"sorted {subject}", "Junk")
            mailbox.logout()
        finally:
            pupil.run("systemctl", "start", "rspamd")
        assert send(client, letter(subject))[0] == 250
        assert subject.encode() in delivered(client, subject)


def test_without_valkey_mail_comes_in(pupil: Machine) -> None:
    subject = new_subject()
    pupil.run("systemctl", "stop", "valkey")
    try:
        with pupil.lan() as client:
            started = time.monotonic()
            assert send(client, letter(subject))[0] == 250
            assert time.monotonic() - started < 20
            assert subject.encode() in delivered(client, subject)
    finally:
        pupil.run("systemctl", "start", "valkey")


def test_without_internet_nobody_waits_long(pupil: Machine) -> None:
    with pupil.lan() as client:
        # A way out that leads nowhere: no answer and no error comes back.
        pupil.run("ip", "route", "add", "default", "via", CLIENT_ADDRESS)
        try:
            links = " ".join(f"https://shop-{number}.example.net/x" for number in range(20))
            started = time.monotonic()
            code, text = send(client, letter(new_subject(), links), STRANGER_ADDRESS)
            elapsed = time.monotonic() - started
        finally:
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
    subject = new_subject()
    with pupil.lan() as client:
        assert send(client, letter(subject, "www.example.net, https://example.org/a"))[0] == 250
        assert subject.encode() in delivered(client, subject)
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
    subject = new_subject()
    with pupil.lan() as client:
        assert send(client, letter(subject, "www.example.net, https://example.org/a"))[0] == 250
        assert subject.encode() in delivered(client, subject)


# ---- Learning


def _text(words: str) -> str:
    return "\r\n".join(" ".join(random.choices(words.split(), k=8)) for _ in range(6))


def _move(mailbox: imaplib.IMAP4_SSL, source: str, target: str, words: str, count: int) -> None:
    """Put messages into a folder, and move them to another one."""
    for _ in range(count):
        mailbox.append(source, "", imaplib.Time2Internaldate(time.time()), letter(new_subject(), _text(words)))
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


def _anywhere(client: Client, subject: str) -> bytes:
    mailbox = open_mailbox(client)
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


def test_moving_mail_teaches(pupil: Machine) -> None:
    with pupil.lan() as client:
        mailbox = open_mailbox(client)
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
            subject = new_subject()
            assert send(client, letter(subject, _text(words)))[0] == 250
            assert symbol in _anywhere(client, subject)
    pupil.restart()
    _wait_for_learned(pupil, spam + _TAUGHT, ham + _TAUGHT)


@pytest.mark.parametrize("service", ["rspamd", "valkey"])
def test_a_service_comes_back_however_often_it_dies(pupil: Machine, service: str) -> None:
    for _ in range(7):
        pupil.run("systemctl", "kill", "--signal=KILL", service)
        pupil.run("timeout", "60", "sh", "-c", f"until systemctl is-active --quiet {service}; do sleep 0.1; done")
