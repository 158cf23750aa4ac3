"""What waited on the relay comes home: by a real tunnel, from the relay's real queue, to real Postfix and Dovecot."""

from __future__ import annotations

import email.utils
import imaplib
import json
import re
import smtplib
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from model.envelope import Envelope
from relay.fence import Identity
from tests import mail, signatures
from tests.corpus import samples
from tests.drain import envelope
from tests.machine.conftest import PASSWORD, SEED
from tests.machine.machine import HOME_ADDRESS, STRANGER_ADDRESS, Client, Machine, wait_for
from tests.machine.queue import HOME_ID, RELAY_ID, Queue, queue_on
from tests.machine.relay import RELAY as RELAY_ADDRESS
from tests.machine.relay import relay_behind

_CLIENT = "198.51.100.77"
"""Who has sent to the relay; sender.example lets nobody else send (SPF)."""

_UNBOUND = "/data/darkpipe/config/current/unbound/unbound.conf"
_NAMES = f"""
server:
    local-zone: "sender.example." static
    local-data: "sender.example. IN MX 10 mail.sender.example."
    local-data: "mail.sender.example. IN A {_CLIENT}"
    local-data-ptr: "{_CLIENT} mail.sender.example"
    local-data: 'sender.example. IN TXT "v=spf1 ip4:{_CLIENT} -all"'
    local-zone: "." typetransparent
    local-data: ". IN NS a.root.invalid."
"""


@pytest.fixture(scope="module")
def home(new_machine: Callable[[str], Machine]) -> Iterator[Machine]:
    """A device with a relay."""
    machine = new_machine(f"{SEED}relays: [{{address: {RELAY_ADDRESS}, offline: tempfail}}]\n").start()
    machine.run("chmod", "0666", "/dev/net/tun")
    machine.run("tee", "-a", _UNBOUND, stdin=_NAMES.encode())
    machine.run("systemctl", "restart", "unbound")
    yield machine
    machine.stop()


@pytest.fixture(scope="module")
def queue(home: Machine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Queue]:
    """The queue of the relay that home is paired with."""
    with relay_behind(home) as relay, queue_on(relay, home, tmp_path_factory.mktemp("relay")) as queue:
        yield queue


@pytest.fixture(scope="module")
def lan(home: Machine) -> Iterator[Client]:
    """A computer from which mail is read."""
    with home.lan() as client:
        yield client


def _state(home: Machine) -> Any:
    return json.loads(home.run("cat", "/run/darkpipe-drain/state.json"))


def _envelope(*recipients: str, **changes: Any) -> Envelope:
    client = {"ADDR": _CLIENT, "PORT": "4242", "HELO": "mail.sender.example", "PROTO": "ESMTP"}
    return envelope(*recipients, **{"sender": "bob@sender.example", "client": client, **changes})


def _message(subject: str, body: str = "hello") -> bytes:
    fields = ("From: Bob <bob@sender.example>", f"Subject: {subject}", "To: alice@example.com")
    more = (f"Date: {email.utils.localtime():%a, %d %b %Y %H:%M:%S %z}", f"Message-ID: <{subject}@sender.example>")
    return "\r\n".join((*fields, *more, "", body, "")).encode()


def _received(lan: Client, subject: str, user: str = "alice@example.com") -> bytes:
    mailbox: imaplib.IMAP4_SSL = lan.call(mail.mailbox, 993, user, PASSWORD, host=HOME_ADDRESS)
    try:
        return mail.fetch(mailbox, subject)
    finally:
        mailbox.logout()


def _count(home: Machine, subject: str) -> int:
    found = home.run("doveadm", "search", "-A", "mailbox", "*", "header", "Subject", subject).splitlines()
    # A mailbox is listed once for each of its addresses; what comes behind the address names the message.
    return len({line.partition(" ")[2] for line in found})


def test_what_waited_comes_as_it_was_sent_and_the_true_client_is_judged(
    home: Machine, queue: Queue, lan: Client
) -> None:
    message = _message("as-it-was", ".\r\n..\r\n. dot\r\n" + "word " * 200 + "x" * 5000)
    item = queue.keep(message, _envelope("alice@example.com"))
    queue.wait_until_empty()
    received = _received(lan, "as-it-was")
    head, mark, rest = received.partition(f"DarkPipe-Item: {item.id}.1\r\n".encode())
    assert mark
    assert rest == message
    assert rb"spf=pass" in head, head
    assert f"({_CLIENT}" in head.decode() or f"[{_CLIENT}]" in head.decode(), head
    wait_for(lambda: _state(home)["doing"] == "empty", "the drain to be done")
    log = home.run("journalctl", "-b", "-u", "darkpipe-drain", "-o", "cat")
    assert re.search(r"drained 1 messages, 0\.0 MB \([0-9.]+ messages/s, [0-9.]+ MB/s\)", log), log
    assert "alice" not in log


def test_a_signature_still_holds_in_the_mailbox(queue: Queue, lan: Client, tmp_path: Path) -> None:
    """Dots that SMTP doubles, octets of 8 bits, white space at ends of lines, and a line of 100 KB."""
    body = ".dot\r\n..\r\nä \xff  \r\n\t\r\n" + "y" * 100_000 + "\r\n\r\n."
    signed, records = signatures.signed(_message("signed", body), tmp_path)
    queue.keep(signed, _envelope("alice@example.com"))
    queue.wait_until_empty()
    received = _received(lan, "signed")
    assert received.endswith(b"\r\n" + signed)
    assert [verdict.good for verdict in signatures.judge(received, records)] == [True]
    assert [verdict.good for verdict in signatures.judge(received.replace(b"\n..\r", b"\n.\r"), records)] == [False]


def test_another_client_fails_spf(queue: Queue, lan: Client) -> None:
    forged = {"ADDR": "198.51.100.78", "PORT": "1", "HELO": "mail.sender.example"}
    queue.keep(_message("forged-client"), _envelope("alice@example.com", client=forged))
    queue.wait_until_empty()
    assert b"spf=fail" in _received(lan, "forged-client")


def test_nothing_is_greylisted(queue: Queue, lan: Client) -> None:
    doubtful = [
        _message(subject).replace(b"bob@sender.example>\r", b"alice@example.com>\r") for subject in ("one", "two")
    ]
    session = lan.call(smtplib.SMTP, HOME_ADDRESS, 25, "mx.example.net", 30, source_address=(STRANGER_ADDRESS, 0))
    with session:
        session.ehlo()
        session.mail("stranger@example.net")
        session.rcpt("alice@example.com")
        code, text = session.data(doubtful[0])
    assert code == 451, "it has to come again, if its sender comes itself"
    assert b"Greylisted" in text
    queue.keep(
        doubtful[1], _envelope("alice@example.com", sender="stranger@example.net", client={"ADDR": "198.51.100.9"})
    )
    queue.wait_until_empty()
    mailbox: imaplib.IMAP4_SSL = lan.call(mail.mailbox, 993, "alice@example.com", PASSWORD, host=HOME_ADDRESS)
    try:
        assert mail.fetch(mailbox, "two", "Junk")
    finally:
        mailbox.logout()


def test_a_refusal_becomes_quarantine(home: Machine, queue: Queue, lan: Client) -> None:
    item = queue.keep(_message("for-two"), _envelope("alice@example.com", "nobody@example.com"))
    queue.wait_until_empty()
    assert _received(lan, "for-two")
    kept = json.loads(home.run("cat", f"/data/drain/quarantine/{item.id}.json"))
    assert [(one["address"], one["reply"][:9]) for one in kept["recipients"]] == [("nobody@example.com", "550 5.1.1")]
    assert not home.run("postqueue", "-j").strip(), "and nobody is told"


def test_what_is_in_quarantine_is_listed_shown_released_and_deleted(home: Machine, queue: Queue, lan: Client) -> None:
    """By the device's command, into a mailbox of Dovecot."""
    messages = [_message(f"kept-{number}", ".\r\n..\r\nbody") for number in range(2)]
    items = [queue.keep(message, _envelope("nobody@example.com")) for message in messages]
    queue.wait_until_empty()
    listed = json.loads(home.run("darkpipe", "quarantine", "list", "--json"))
    assert {item.id for item in items} <= {one["id"] for one in listed["quarantine"]}
    shown = home.run("darkpipe", "quarantine", "show", items[0].id)
    assert "nobody@example.com" in shown
    assert "550 5.1.1" in shown
    assert "Subject: kept-0" in shown
    refused = home.run("darkpipe", "quarantine", "release", items[0].id, check=False)
    assert "Traceback" not in refused
    assert "--to" in refused, refused
    home.run("darkpipe", "quarantine", "release", items[0].id, "--to", "alice@example.com")
    received = _received(lan, "kept-0")
    assert received.endswith(b"\r\n" + messages[0])
    home.run("darkpipe", "quarantine", "delete", items[1].id)
    left = json.loads(home.run("darkpipe", "quarantine", "list", "--json"))
    assert not {item.id for item in items} & {one["id"] for one in left["quarantine"]}
    assert "Traceback" not in home.run("darkpipe", "quarantine", "release", items[0].id, check=False)
    assert [_count(home, f"kept-{number}") for number in range(2)] == [1, 0]
    assert list((home.data / "drain/quarantine").glob(f"{items[0].id}.*")) == []


def test_whatever_was_sent_comes_home_octet_for_octet(queue: Queue, lan: Client) -> None:
    """The corpus of awkward messages, each with the field that the relay's Postfix puts on top."""
    trace = b"Received: from client.example.net by mx.example.com; Mon, 23 Nov 2026 01:02:03 +0000\r\n"
    same = [sample for sample in samples() if sample.kept is None or sample.name == "NUL"]
    assert len(same) > 25
    ids = {
        sample.name: queue.keep(trace + sample.sent, _envelope("alice@example.com", utf8=True)).id for sample in same
    }
    queue.wait_until_empty()
    mailbox: imaplib.IMAP4_SSL = lan.call(mail.mailbox, 993, "alice@example.com", PASSWORD, host=HOME_ADDRESS)
    try:
        for sample in same:
            received = mail.fetch_by(mailbox, "DarkPipe-Item", f"{ids[sample.name]}.1")
            _, _, rest = received.partition(f"DarkPipe-Item: {ids[sample.name]}.1\r\n".encode())
            # What looks like spam is marked below the sender's fields, where no signature speaks of it.
            assert rest.replace(b"X-Spam: Yes\r\n", b"", 1) == trace + sample.expected(chunks=False), sample.name
    finally:
        mailbox.logout()


_SLOW = b"""
rspamd_config:register_symbol {
  name = "TEST_SLOW",
  type = "prefilter",
  callback = function(task)
    local over = os.time() + (task:get_subject() == "lost-0" and 5 or 0)
    while os.time() < over do end
  end,
}
"""


def test_a_lost_answer_is_found_in_queue_or_mailbox(home: Machine, queue: Queue, lan: Client) -> None:
    """The drain is killed between the last octet and the answer, for which rspamd takes its time."""
    home.run("systemctl", "stop", "darkpipe-drain")
    for number in range(2):
        queue.keep(_message(f"lost-{number}"), _envelope("alice@example.com"))
    home.run("tee", "-a", "/data/darkpipe/config/current/rspamd/rspamd.local.lua", stdin=_SLOW)
    home.run("systemctl", "restart", "rspamd")
    home.run("systemctl", "start", "darkpipe-drain")
    journal = home.data / "drain/journal.db"
    try:
        wait_for(lambda: "sending" in _fates(journal), "an open handing over", 60)
    except AssertionError:
        queue.print_log()
        raise
    home.run("systemctl", "kill", "--signal=KILL", "--kill-whom=main", "darkpipe-drain")
    queue.wait_until_empty()
    assert _received(lan, "lost-0")
    assert _received(lan, "lost-1")
    assert [_count(home, f"lost-{number}") for number in range(2)] == [1, 1]
    log = home.run("journalctl", "-b", "-u", "darkpipe-drain", "-o", "cat")
    assert "looked for 1 messages without an answer: home has 1 of them" in log, log


def _fates(journal: Path) -> Sequence[str]:
    with sqlite3.connect(f"file:{journal}?mode=ro", uri=True) as base:
        return [row[0] for row in base.execute("SELECT fate FROM people")]


def test_a_stranger_cannot_write_the_drain_s_mark(lan: Client) -> None:
    message = b"DarkPipe-Item: " + b"c" * 32 + b".1\r\n" + _message("with-a-mark")
    session = lan.call(smtplib.SMTP, HOME_ADDRESS, 25, "mx.example.net", 30)
    with session:
        session.sendmail("bob@sender.example", "alice@example.com", message)
    assert b"DarkPipe-Item" not in _received(lan, "with-a-mark")


def test_nobody_but_the_drain_gets_to_its_listener(home: Machine) -> None:
    script = "import socket; socket.create_connection(('127.0.0.1', 2526), 3)"
    for user, allowed in (("darkpipe-drain", True), ("postfix", False), ("root", False)):
        identity = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"]
        assert (home.run(*identity, "python3", "-c", script, check=False).strip() == "") is allowed, user


def test_another_home_shuts_this_one_out(home: Machine, queue: Queue) -> None:
    queue.identity = Identity(RELAY_ID, HOME_ID, 2)
    item = queue.keep(_message("fenced"), _envelope("alice@example.com"))
    try:
        wait_for(lambda: _state(home)["doing"] == "fenced", "the fence")
        assert queue.waits == [item.id]
        assert _state(home)["trouble"]
    finally:
        queue.identity = Identity(RELAY_ID, HOME_ID, 1)
        home.run("systemctl", "restart", "darkpipe-drain")
    queue.wait_until_empty()
