"""DKIM: what is signed, by which keys, and what is never signed; and what a user may write into From."""

from __future__ import annotations

import json
import smtplib
import ssl
import stat
import uuid
from collections.abc import Callable, Iterator, Mapping

import pytest

from tests import mail
from tests.machine.conftest import PASSWORD, SEED
from tests.machine.machine import HOME_ADDRESS, Client, Machine
from tests.signatures import Verdict, judge

ALICE = "alice@example.com"
DAVE = "dave@example.org"
SELECTORS = ["dp1-rsa", "dp1-ed25519"]


@pytest.fixture(scope="module")
def records(device: Machine) -> Mapping[str, str]:
    """What `darkpipe dkim` says is to be published."""
    found = json.loads(device.run("darkpipe", "dkim", "--json"))["records"]
    return {record["name"]: record["value"] for record in found}


@pytest.fixture(scope="module")
def client(device: Machine) -> Iterator[Client]:
    """One other computer for all tests here, so that a session can last longer than one of them."""
    with device.lan() as client:
        yield client


@pytest.fixture(scope="module")
def app(client: Client) -> Iterator[App]:
    """Alice's mail app."""
    app = App(client)
    yield app
    app.close()


class App:
    """A mail app that logs in as seldom as it can: Postfix counts that."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._session: smtplib.SMTP | None = None
        self._refused = 0

    def send(self, message: str) -> None:
        """Send a message, over port 465.

        Raises:
            smtplib.SMTPDataError: it was refused.
        """
        if self._session is None:
            self._session = _session(self._client, 465)
        try:
            _send(self._session, message)
        except smtplib.SMTPDataError:
            self._refused += 1
            if self._refused % 8 == 0:  # Postfix slows a session down after ten mistakes
                self.close()
            raise

    def close(self) -> None:
        """End the session."""
        if self._session:
            self._session.quit()
            self._session = None


def _session(client: Client, port: int) -> smtplib.SMTP:
    """Log in as Alice."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    session: smtplib.SMTP
    if port == 465:
        session = client.call(smtplib.SMTP_SSL, HOME_ADDRESS, port, "phone.example.net", timeout=30, context=context)
    else:
        session = client.call(smtplib.SMTP, HOME_ADDRESS, port, "phone.example.net", 30)
        session.starttls(context=context)
    session.login(ALICE, PASSWORD)
    return session


def _send(session: smtplib.SMTP, message: str) -> None:
    options = [] if message.isascii() else ["SMTPUTF8", "BODY=8BITMIME"]
    session.sendmail(ALICE, DAVE, message.replace("\n", "\r\n").encode(), options)


def _submit(client: Client, message: str, port: int = 465) -> None:
    with _session(client, port) as session:
        _send(session, message)


def _message(sender: str, subject: str, more: str = "") -> str:
    lines = (f"From: {sender}", f"To: {DAVE}", f"Subject: {subject}", "Date: Mon, 23 Nov 2026 01:02:03 +0000")
    return "\n".join((*lines, f"Message-ID: <{uuid.uuid4()}@example.net>")) + f"\n{more}\nA text\nof two lines.\n"


def _received(client: Client, subject: str, folder: str = "INBOX") -> bytes:
    mailbox = client.call(mail.mailbox, 993, DAVE, PASSWORD, host=HOME_ADDRESS)
    try:
        return mail.fetch(mailbox, subject, folder)
    finally:
        mailbox.logout()


def _subject() -> str:
    return f"test {uuid.uuid4()}"


@pytest.mark.parametrize("port", [465, 587])
@pytest.mark.parametrize(
    ("sender", "domain"),
    [(f"Alice <{ALICE}>", "example.com"), ("sales@example.org", "example.org"), ("info@xn--bcher-kva.example", "")],
)
def test_what_a_user_sends_has_two_good_signatures(
    client: Client, records: Mapping[str, str], port: int, sender: str, domain: str
) -> None:
    subject = _subject()
    _submit(client, _message(sender, subject), port)
    received = _received(client, subject)
    domain = domain or "xn--bcher-kva.example"
    assert sorted(judge(received, records), key=str) == sorted(
        (Verdict(selector, domain, True) for selector in SELECTORS), key=str
    )
    # The judge finds a change, and a world without our records.
    tampered = received.replace(b"of two lines", b"of two limes")
    assert tampered != received
    assert [verdict.good for verdict in judge(tampered, records)] == [False, False]
    assert [verdict.good for verdict in judge(received.replace(b"Subject: test", b"Subject: best"), records)] == [
        False,
        False,
    ]
    assert [verdict.good for verdict in judge(received, {})] == [False, False]


def test_date_and_message_id_are_signed_also_when_they_were_added_here(
    client: Client, records: Mapping[str, str]
) -> None:
    subject = _subject()
    _submit(client, f"From: {ALICE}\nTo: {DAVE}\nSubject: {subject}\n\nhello\n")
    received = _received(client, subject)
    assert [verdict.good for verdict in judge(received, records)] == [True, True]
    assert [verdict.good for verdict in judge(received.replace(b"\r\nDate: ", b"\r\nDate: Sun, "), records)] == [
        False,
        False,
    ]


def test_keys_are_rspamds_alone(device: Machine) -> None:
    keys = sorted((device.data / "dkim").iterdir())
    domains = ("example.com", "example.org", "xn--bcher-kva.example")
    assert [key.name for key in keys] == sorted(
        f"{selector}.{domain}.key" for domain in domains for selector in SELECTORS
    )
    rspamd = int(device.run("id", "-g", "_rspamd"))
    for key in keys:
        found = key.stat()
        assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == (0o640, 0, rspamd)
    folder = (device.data / "dkim").stat()
    assert (stat.S_IMODE(folder.st_mode), folder.st_uid, folder.st_gid) == (0o750, 0, rspamd)


def test_records_are_lines_of_a_zone_file(device: Machine, records: Mapping[str, str]) -> None:
    lines = device.run("darkpipe", "dkim").splitlines()
    assert len(lines) == len(records) == 6
    for line, (name, value) in zip(lines, records.items(), strict=True):
        start, _, strings = line.partition(" IN TXT ")
        assert start == f"{name}."
        parts = strings.strip('"').split('" "')
        assert "".join(parts) == value
        assert all(len(part) <= 255 for part in parts)


def test_mail_that_claims_to_be_ours_is_not_signed(client: Client) -> None:
    subject = _subject()
    with client.call(smtplib.SMTP, HOME_ADDRESS, 25, "mx.example.net", 30) as session:
        session.sendmail("a@example.net", DAVE, _message(f"Alice <{ALICE}>", subject))
    assert b"DKIM-Signature" not in _received(client, subject)


def test_mail_of_the_device_itself_is_not_signed(device: Machine, client: Client) -> None:
    by_smtp, by_sendmail = _subject(), _subject()
    script = "import smtplib,sys; smtplib.SMTP('127.0.0.1',25,'localhost').sendmail('', sys.argv[1], sys.stdin.read())"
    device.run("python3", "-c", script, DAVE, stdin=_message(ALICE, by_smtp).encode())
    device.run("sendmail", "-f", ALICE, DAVE, stdin=_message(ALICE, by_sendmail).encode())
    for subject in (by_smtp, by_sendmail):
        assert b"DKIM-Signature" not in _received(client, subject)


@pytest.mark.parametrize(
    "sender",
    [
        ALICE,
        "ALICE@Example.COM",
        f'"Dave, or bob@example.org" <{ALICE}>',
        f"{ALICE} (dave@example.org)",
        f"=?utf-8?q?dave=40example.org?= <{ALICE}>",
        "alice+shop@example.com",
        "sales@example.org",
        "info@bücher.example",
        f"{ALICE}, sales@example.org",
    ],
)
def test_a_user_may_write_own_addresses_into_from(client: Client, app: App, sender: str) -> None:
    subject = _subject()
    app.send(_message(sender, subject))
    assert subject.encode() in _received(client, subject)


def test_a_message_without_from_gets_its_sender_there(app: App, client: Client, records: Mapping[str, str]) -> None:
    subject = _subject()
    app.send(_message("x", subject).replace("From: x", "X-Other: field"))
    received = _received(client, subject)
    assert f"\nFrom: {ALICE}\r\n".encode() in received
    assert [verdict.good for verdict in judge(received, records)] == [True, True]


@pytest.mark.parametrize(
    "fields",
    [
        f"From: {DAVE}",
        "From: bob@example.org",
        "From: friend@example.net",
        "From: nobody@example.com",
        "From: alice@example.org",
        f"From: {ALICE}, {DAVE}",
        f"From: {ALICE}\nFrom: {DAVE}",
        f"From: {DAVE}\nFrom: {ALICE}",
        f"From: {ALICE} <{DAVE}>",
        f'From: "{ALICE}" <{DAVE}>',
        f"From: {DAVE} <{ALICE}>",
        f"From: <{ALICE}> <{DAVE}>",
        f"From: {DAVE} ({ALICE})",
        f"From: ({ALICE}) {DAVE}",
        f"From: =?utf-8?q?{ALICE.replace('@', '=40')}?= <{DAVE}>",
        f"From:\n {DAVE}",
        f'From: "{ALICE}\\" <{DAVE}>, "x" <{ALICE}>',
        f"X-First: line\nFrom : {DAVE}\nFrom: {ALICE}",
        f"From: {ALICE}\nfrom\t: {DAVE}",
        f"From: {ALICE}\nSender : {DAVE}",
        f"From: {ALICE}\nSender: {DAVE}",
        f"From: {ALICE}\nSender: {ALICE}\nSender: {ALICE}",
        "From: Alice",
        "From: nobody:;",
        "From:",
    ],
)
def test_a_user_may_write_nobody_elses_address_into_from_or_sender(app: App, fields: str) -> None:
    subject = _subject()
    text = _message("x", subject).replace("From: x", fields)
    with pytest.raises(smtplib.SMTPDataError) as refusal:
        app.send(text)
    assert str(refusal.value).startswith("(554, b'5.7.1 "), refusal.value


def test_a_new_domain_gets_keys_and_old_ones_stay(new_machine: Callable[[str], Machine]) -> None:
    machine = new_machine(SEED).start()
    before = json.loads(machine.run("darkpipe", "dkim", "--json"))["records"]
    machine.run("darkpipe", "domain", "add", "example.net")
    after = json.loads(machine.run("darkpipe", "dkim", "--json"))["records"]
    assert after[: len(before)] == before
    assert [record["name"] for record in after[len(before) :]] == [f"{s}._domainkey.example.net" for s in SELECTORS]
    machine.run("darkpipe", "alias", "add", "shop@example.net", ALICE)
    subject = _subject()
    published = {record["name"]: record["value"] for record in after}
    with machine.lan() as client:
        _submit(client, _message("shop@example.net", subject))
        received = _received(client, subject)
    assert {(verdict.domain, verdict.good) for verdict in judge(received, published)} == {("example.net", True)}
    machine.stop()
