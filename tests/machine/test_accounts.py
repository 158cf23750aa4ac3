"""Accounts as they are changed on the device: `darkpipe domain`, `user` and `alias`, and what the world sees of it."""

from __future__ import annotations

import imaplib
import json
import re
import smtplib
import ssl
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests import mail
from tests.machine.conftest import PASSWORD, SEED
from tests.machine.machine import HOME_ADDRESS, Client, Machine, wait_for

ALICE = "alice@example.com"
BOB = "bob@example.org"
DAVE = "dave@example.org"
SECRET = "a password that nobody else has"

_PATIENCE = 30.0


@pytest.fixture(scope="module")
def machine(new_machine: Callable[[str], Machine]) -> Iterator[Machine]:
    """A device of its own: its accounts are changed here, one test after the other."""
    machine = new_machine(SEED).start()
    yield machine
    machine.stop()


@pytest.fixture
def lan(machine: Machine) -> Iterator[Client]:
    with machine.lan() as client:
        yield client


def _told(machine: Machine, *arguments: str, stdin: str = "") -> Any:
    return json.loads(machine.run("darkpipe", *arguments, "--json", stdin=stdin.encode()))


def _add_user(machine: Machine, address: str, *options: str, password: str = SECRET) -> Any:
    return _told(machine, "user", "add", address, "--password-stdin", *options, stdin=f"{password}\n")["user"]


def _send(client: Client, recipient: str) -> tuple[str, str]:
    """Send a message; gives its subject, and the reply to RCPT TO."""
    subject = f"test {uuid.uuid4()}"
    done = client.call(
        mail.swaks, 25, "a@example.net", recipient, host=HOME_ADDRESS, options=["--header", f"Subject: {subject}"]
    )
    reply = re.search(r"RCPT TO.*\n<(?:-|\*\*)\s+(.*)", done.stdout)
    assert reply, done.stdout + done.stderr
    return subject, reply[1]


def _arrives(client: Client, recipient: str, user: str, password: str = PASSWORD) -> None:
    subject, reply = _send(client, recipient)
    assert reply.startswith("250 2.1.5"), reply
    mailbox = client.call(mail.mailbox, 993, user, password, host=HOME_ADDRESS)
    try:
        mail.fetch(mailbox, subject)
    finally:
        mailbox.logout()


def _unknown(client: Client, recipient: str) -> None:
    _, reply = _send(client, recipient)
    assert reply.startswith("550 5.1.1"), reply


def _may_send_as(client: Client, user: str, password: str, *senders: str) -> list[bool]:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    session = client.call(smtplib.SMTP_SSL, HOME_ADDRESS, 465, "phone.example.net", timeout=30, context=context)
    allowed = []
    with session:
        session.login(user, password)
        for sender in senders:
            code = session.mail(sender)[0]
            assert code in {250, 553}
            allowed.append(code == 250)
            session.rset()
    return allowed


def _log_in(client: Client, user: str, password: str) -> bool:
    try:
        client.call(mail.mailbox, 993, user, password, host=HOME_ADDRESS).logout()
    except imaplib.IMAP4.error as error:
        if "AUTHENTICATIONFAILED" not in str(error):
            raise
        return False
    return True


def _until_it_ends(mailbox: imaplib.IMAP4_SSL) -> None:
    deadline = time.monotonic() + _PATIENCE
    try:
        while time.monotonic() < deadline:
            mailbox.noop()
            time.sleep(0.1)
    except (imaplib.IMAP4.abort, OSError):
        mailbox.shutdown()
    else:
        raise AssertionError("the session goes on")


def _invocation(machine: Machine, name: str) -> str:
    return machine.run("systemctl", "show", "--property=InvocationID", "--value", f"{name}.service")


def test_the_seed_has_started_the_store(machine: Machine) -> None:
    users = _told(machine, "user", "list")["users"]
    assert [user["address"] for user in users] == [ALICE, BOB, DAVE]
    assert users[0] == {
        "address": ALICE,
        "admin": True,
        "aliases": ["sales@example.org", "info@xn--bcher-kva.example"],
        "catch_all": [],
        "quota": None,
        "password_set": True,
    }
    assert _told(machine, "domain", "list")["domains"][0] == {"name": "example.com", "primary": True, "catch_all": None}


def test_a_new_user_gets_mail_and_disturbs_nobody(machine: Machine, lan: Client) -> None:
    _unknown(lan, "carol@example.com")
    dovecot, postfix = _invocation(machine, "dovecot"), _invocation(machine, "postfix")
    session = lan.call(mail.mailbox, 993, ALICE, PASSWORD, host=HOME_ADDRESS)
    session.select("INBOX", readonly=True)
    added = _add_user(machine, "Carol@example.com", "--quota", "5 GiB")
    assert (added["address"], added["quota"]) == ("carol@example.com", 5 * 1024**3)
    assert session.noop()[0] == "OK"
    session.logout()
    assert _invocation(machine, "dovecot") == dovecot
    assert _invocation(machine, "postfix") != postfix
    _arrives(lan, "carol@example.com", "carol@example.com", SECRET)
    assert not _log_in(lan, "carol@example.com", PASSWORD)
    assert "quota_storage_size\t5368709120B" in machine.run("doveadm", "user", "carol@example.com")
    machine.run("darkpipe", "user", "quota", "carol@example.com", "none")
    # Dovecot looks at most once a second whether its file of users has changed.
    wait_for(lambda: "quota_storage_size" not in machine.run("doveadm", "user", "carol@example.com"), "no quota")


def test_a_new_domain_and_an_alias_to_two(machine: Machine, lan: Client) -> None:
    _, reply = _send(lan, "family@example.info")
    assert reply.startswith("554 5.7.1"), reply
    machine.run("darkpipe", "domain", "add", "Example.info")
    _arrives(lan, "postmaster@example.info", ALICE)
    machine.run("darkpipe", "alias", "add", "family@example.info", ALICE, DAVE)
    subject, reply = _send(lan, "family+x@example.info")
    assert reply.startswith("250"), reply
    for user in (ALICE, DAVE):
        mailbox = lan.call(mail.mailbox, 993, user, PASSWORD, host=HOME_ADDRESS)
        mail.fetch(mailbox, subject)
        mailbox.logout()
    for user in (ALICE, DAVE):
        assert _may_send_as(lan, user, PASSWORD, "family@example.info") == [True]
    told = machine.run("darkpipe", "domain", "remove", "example.info", "--json", check=False)
    assert json.loads(told.partition("\nfound:")[0])["refused"]["kind"] == "in-use"
    machine.run("darkpipe", "alias", "remove", "family@example.info")
    machine.run("darkpipe", "domain", "remove", "example.info")
    _, reply = _send(lan, "family@example.info")
    assert reply.startswith("554 5.7.1"), reply


def test_an_alias_may_lead_elsewhere(machine: Machine, lan: Client) -> None:
    friend = f"friend-{uuid.uuid4()}@example.net"
    machine.run("darkpipe", "alias", "add", "club@example.com", DAVE, friend)
    _arrives(lan, "club@example.com", DAVE)
    machine.run("timeout", "30", "sh", "-c", f"until postqueue -p | grep -q {friend}; do sleep 0.2; done")
    machine.run("darkpipe", "alias", "remove", "club@example.com", friend)
    club = {"address": "club@example.com", "targets": [DAVE], "required": False}
    assert club in _told(machine, "alias", "list")["aliases"]
    machine.run("darkpipe", "alias", "remove", "club@example.com")
    _unknown(lan, "club@example.com")


def test_a_catch_all_gets_what_nobody_has_and_only_that(machine: Machine, lan: Client) -> None:
    _unknown(lan, "whoever@example.org")
    machine.run("darkpipe", "domain", "catch-all", "example.org", ALICE)
    _arrives(lan, "whoever@example.org", ALICE)
    _arrives(lan, "whoever+x@example.org", ALICE)
    _arrives(lan, DAVE, DAVE)
    _arrives(lan, "dave+shop@example.org", DAVE)
    _arrives(lan, "sales+x@example.org", ALICE)
    _unknown(lan, "whoever@example.com")
    assert _may_send_as(lan, ALICE, PASSWORD, "whoever@example.org", DAVE, "dave+x@example.org") == [True, False, False]
    assert _may_send_as(lan, DAVE, PASSWORD, "whoever@example.org", DAVE) == [False, True]
    machine.run("darkpipe", "domain", "catch-all", "example.org", "none")
    _unknown(lan, "whoever@example.org")


def test_another_password_ends_sessions_of_its_user_only(machine: Machine, lan: Client) -> None:
    _add_user(machine, "erin@example.com")
    hers = lan.call(mail.mailbox, 993, "erin@example.com", SECRET, host=HOME_ADDRESS)
    others = lan.call(mail.mailbox, 993, ALICE, PASSWORD, host=HOME_ADDRESS)
    app = lan.call(smtplib.SMTP_SSL, HOME_ADDRESS, 465, "phone.example.net", context=mail.any_certificate(), timeout=30)
    app.login("erin@example.com", SECRET)
    machine.run("darkpipe", "user", "password", "erin@example.com", "--password-stdin", stdin=b"quite another one\r\n")
    _until_it_ends(hers)
    with pytest.raises(smtplib.SMTPServerDisconnected):
        app.sendmail("erin@example.com", ALICE, mail.letter("still here", "erin@example.com", ALICE))
    assert others.noop()[0] == "OK"
    others.logout()
    assert _log_in(lan, "erin@example.com", "quite another one")
    assert not _log_in(lan, "erin@example.com", SECRET)


def test_a_removed_user_is_out_and_the_mail_is_kept(machine: Machine, lan: Client) -> None:
    address = "frank@example.com"
    _add_user(machine, address)
    machine.run("darkpipe", "alias", "add", "fritz@example.com", address)
    _arrives(lan, address, address, SECRET)
    session = lan.call(mail.mailbox, 993, address, SECRET, host=HOME_ADDRESS)
    assert "fritz@example.com" in machine.run("darkpipe", "user", "remove", address, check=False)
    told = _told(machine, "user", "remove", address, "--with-aliases")
    assert told == {"removed": address, "aliases": ["fritz@example.com"], "mail": "/data/mail/example.com/frank"}
    _until_it_ends(session)
    _unknown(lan, address)
    _unknown(lan, "fritz@example.com")
    assert not _log_in(lan, address, SECRET)
    assert len(list((machine.data / "mail/example.com/frank/Maildir").glob("*/*.darkpipe*"))) == 1
    assert _told(machine, "user", "list", "--removed")["removed"] == [
        {"address": address, "mail": "/data/mail/example.com/frank"}
    ]
    refused = machine.run("darkpipe", "user", "add", address, "--password-stdin", stdin=SECRET.encode(), check=False)
    assert "--with-old-mail" in refused
    assert all(user["address"] != address for user in _told(machine, "user", "list")["users"])
    _add_user(machine, address, "--with-old-mail")
    mailbox = lan.call(mail.mailbox, 993, address, SECRET, host=HOME_ADDRESS)
    assert mailbox.select("INBOX", readonly=True) == ("OK", [b"1"])
    mailbox.logout()


def test_a_generated_password_is_shown_once_on_the_terminal(machine: Machine, lan: Client) -> None:
    refused = machine.run("darkpipe", "user", "add", "grace@example.com", "--generate", check=False)
    assert "needs a terminal" in refused
    # script(1) is a terminal.
    command = "darkpipe user add grace@example.com --generate"
    shown = machine.run("script", "--quiet", "--return", "--command", command, "/dev/null")
    found = re.findall(r"grace@example\.com +([a-z-]{24})\b", shown)
    assert len(found) == 1, shown
    assert _log_in(lan, "grace@example.com", found[0])
    assert found[0] not in machine.console
    machine.run("darkpipe", "apply")
    assert _log_in(lan, "grace@example.com", found[0])
    _is_nowhere(machine, found[0])


def test_a_password_is_asked_for_without_echo(machine: Machine, lan: Client) -> None:
    command = "darkpipe user add heidi@example.com"
    # The blank after the question says that the echo is off.
    script = (
        "import os,pty,sys\n"
        "shown = []\n"
        "def read(fd):\n"
        "    data = os.read(fd, 1024)\n"
        "    shown.append(data)\n"
        "    if b''.join(shown).endswith(b': '): os.write(fd, sys.argv[1].encode() + b'\\n')\n"
        "    return data\n"
        "sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[2].split(), read)))\n"
    )
    shown = machine.run("python3", "-c", script, SECRET, command)
    assert "has a mailbox now" in shown
    assert SECRET not in shown
    assert _log_in(lan, "heidi@example.com", SECRET)


def test_a_password_is_in_no_log_and_on_no_command_line(machine: Machine) -> None:
    secret = f"secret-{uuid.uuid4()}"
    # Whatever runs meanwhile is looked at all the time (proc_pid_cmdline(5), proc_pid_environ(5)).
    watch = (
        "while [ ! -e /run/watched ]; do"
        " cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null | tr '\\0' '\\n'; done > /tmp/watched"
    )
    machine.run("systemd-run", "--quiet", "--unit=watch", "sh", "-c", watch)
    for command in (("add", "ivan@example.com"), ("password", "ivan@example.com")):
        machine.run("darkpipe", "user", *command, "--password-stdin", stdin=f"{secret}\n".encode())
    machine.run("touch", "/run/watched")
    machine.run("timeout", "20", "sh", "-c", "while systemctl is-active --quiet watch; do sleep 0.1; done")
    seen = machine.run("cat", "/tmp/watched")
    assert "ivan@example.com" in seen, "the command itself was seen"
    assert secret not in seen
    _is_nowhere(machine, secret)


def _is_nowhere(machine: Machine, secret: str) -> None:
    machine.run("journalctl", "--sync")
    assert secret not in machine.run("journalctl", "--no-pager", "--output=export")
    assert machine.run("grep", "-rlF", secret, "/data", "/var", "/run", check=False).strip() == ""


def test_what_a_daemon_refuses_changes_nothing(machine: Machine, lan: Client) -> None:
    accounts = (machine.data / "darkpipe/accounts.json").read_bytes()
    current = machine.run("readlink", "/data/darkpipe/config/current")
    refusing = machine.data / "refuses"
    refusing.write_text("#!/bin/sh\necho 'line 1: no such thing'\nexit 3\n")
    refusing.chmod(0o755)
    machine.run("mount", "--bind", "/data/refuses", "/usr/sbin/unbound-checkconf")
    try:
        told = machine.run("darkpipe", "alias", "add", "late@example.com", ALICE, check=False)
    finally:
        machine.run("umount", "/usr/sbin/unbound-checkconf")
        refusing.unlink()
    assert "line 1: no such thing" in told
    assert "Traceback" not in told
    assert (machine.data / "darkpipe/accounts.json").read_bytes() == accounts
    assert machine.run("readlink", "/data/darkpipe/config/current") == current
    _unknown(lan, "late@example.com")


def test_the_store_outlives_a_restart_and_the_site_does_not_matter(machine: Machine) -> None:
    site = machine.data / "darkpipe/site.yaml"
    before = _told(machine, "user", "list")
    site.write_text(SEED.replace("dave@", "eve@"))
    machine.restart()
    assert _told(machine, "user", "list") == before
    assert machine.failed_units() == []
