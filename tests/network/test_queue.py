"""The relay's Postfix in front of the queue: what a sender sends is in the store, sealed, and Postfix keeps nothing."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pyrage
import pytest

from model.control import QueueSettings
from model.envelope import Envelope
from model.recipients import DomainRule, RecipientList
from relay.front import Front
from relay.place import Place
from relay.queue import RECIPIENTS, SETTINGS, Queue
from relay.reception import Reception
from relay.redaction import redact
from tests import signatures
from tests.machine.machine import wait_for
from tests.network.conftest import DOMAINS, RELAY_NAME, Ends, scratch_folder
from tests.network.net import Namespace, namespace
from tests.network.postfix import running_postfix
from tests.network.smuggler import Smuggler, proxy_header
from tests.relay_files import RelaySetting, relay_files
from tests.sealed import opened

_HOME = pyrage.x25519.Identity.generate()
_SENDER = "203.0.113.77"
_LARGEST = 2_000_000
_SETTINGS = QueueSettings(1, RELAY_NAME, tuple(DOMAINS), "queue", (str(_HOME.to_public()),), 10**9, largest=_LARGEST)
_TRACE = b"Received: from sender.example.net (unknown [203.0.113.77])\r\n"


def _no_place(_settings: object, _epoch: str) -> Place:
    raise ValueError("none here")


def _spf(address: str, sender: str, _helo: str, _seconds: float) -> str:
    return "pass" if (address, sender) == (_SENDER, "a@example.net") else "fail"


@dataclass
class Relay:
    """A Postfix with the queue behind it.

    Args:
        config: folder with the queue's settings.
        written: folders with all that the two have written.
        log: what Postfix has logged.
    """

    place: Namespace
    queue: Queue
    config: Path
    written: tuple[Path, ...]
    log: Path

    def session(self, client: str = _SENDER) -> Smuggler:
        return Smuggler(self.place, client)

    def opened(self) -> list[tuple[Envelope, bytes]]:
        return opened(self.queue.spool, _HOME)

    def empty(self) -> None:
        for item in self.queue.spool.items():
            self.queue.spool.remove(item.id)

    def push(self, settings: QueueSettings) -> None:
        (self.config / SETTINGS).write_bytes(settings.to_json())
        self.queue.reload()

    def files(self) -> Iterator[Path]:
        for folder in self.written:
            yield from (path for path in folder.rglob("*") if path.is_file())

    def holding(self, *texts: bytes) -> set[bytes]:
        """Say which texts stand in any file, or in its name."""
        found = [str(path).encode() + path.read_bytes() for path in self.files()]
        return {text for text in texts if any(text in content for content in found)}


@pytest.fixture(scope="module")
def running(root: Path, ends: Ends) -> Iterator[Relay]:
    with namespace() as place, scratch_folder() as scratch:
        (settings := scratch / "settings").mkdir()
        for file in relay_files(RelaySetting(RELAY_NAME, DOMAINS, ends.relay)):
            if file.path.parent.name == "postfix":
                (settings / file.path.name).write_text(file.text)
        main = (settings / "main.cf").read_text()
        limit = "message_size_limit = "
        assert limit in main
        (settings / "main.cf").write_text(
            main.partition(limit)[0] + f"{limit}{_LARGEST}\n" + main.partition(limit)[2].partition("\n")[2]
        )
        (config := scratch / "config").mkdir()
        (folder := scratch / "spool").mkdir(mode=0o700)
        queue = Queue(config, folder, _no_place, lambda: 1_795_478_400.0, check=_spf)
        listener = place.call(socket.create_server, ("127.0.0.1", 10026))
        server = Front(listener, partial(_begin, queue=queue), queue.spool)
        thread = threading.Thread(target=server.serve)
        thread.start()
        log = scratch / "log"
        try:
            with running_postfix(place, settings, RELAY_NAME, root, scratch / "postfix", log, disk=True):
                wait_for(lambda: place.reachable([10024], "127.0.0.1") == {10024}, "Postfix")
                yield Relay(place, queue, config, (scratch / "postfix/var", folder, config), log)
        finally:
            server.stop()
            thread.join()
            queue.stop()
            listener.close()


def _begin(connection: socket.socket, queue: Queue) -> Reception:
    return Reception(connection, queue.terms(), queue.spool, queue.now)


@pytest.fixture
def relay(running: Relay) -> Iterator[Relay]:
    running.push(_SETTINGS)
    known = RecipientList.make(
        running.queue.recipients.version + 1,
        {name: DomainRule() for name in DOMAINS},
        ["alice@example.com", "jürgen@example.com"],
    )
    (running.config / RECIPIENTS).write_text(known.text())
    running.queue.reload()
    running.empty()
    yield running
    assert [path for path in running.files() if "/spool/postfix/" in str(path) and "/pid/" not in str(path)] == []


def _send(session: Smuggler, content: bytes, *options: str) -> str:
    """Send what stands behind DATA, with its end; gives the last answer."""
    assert session.say("EHLO sender.example.net").startswith("250")
    assert session.say(" ".join(("MAIL FROM:<a@example.net>", *options))).startswith("250")
    assert session.say("RCPT TO:<alice@example.com>").startswith("250")
    assert session.say("DATA").startswith("354")
    session.put(content)
    return session.reply()


_HEADER = b"From: a@example.net\r\nSubject: x\r\n\r\n"


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        (b".dot\r\n..\r\n.\r\n", None),
        (b"y" * 100_000 + b"\r\n", None),
        (b"\xff\xfe 8 bits \xc3\xa4\r\n", None),
        (b"a\0b\0\r\n", None),
        (b"a\rb\r\r\n", None),
        (b"trailing  \t\r\n\r\n\r\n", None),
        (b"one\ntwo\n.\nthree\r\n", b"one\r\ntwo\r\nthree\r\n"),
    ],
)
def test_home_gets_the_octets_that_were_sent(relay: Relay, sent: bytes, kept: bytes | None) -> None:
    """The last one tries to smuggle (CVE-2023-51764): with bare newlines taken for line ends, its message is over."""
    with relay.session() as session:
        stuffed = b"\r\n".join(b"." + line if line.startswith(b".") else line for line in sent.split(b"\r\n"))
        answer = _send(session, _HEADER + (stuffed if kept is None else sent) + b".\r\n")
    assert answer.startswith("250 2.0.0 Kept until the recipient is back"), answer
    ((envelope, content),) = relay.opened()
    trace, _, rest = content.partition(b"From: a@")
    assert trace.startswith(_TRACE)
    assert b"From: a@" + rest == _HEADER + (sent if kept is None else kept)
    assert envelope.client["ADDR"] == _SENDER
    assert (envelope.client["PORT"], envelope.client["HELO"]) == ("4711", "sender.example.net")
    assert envelope.spf == {"result": "pass", "identity": "mailfrom", "domain": "example.net"}
    assert envelope.tls == {}


def test_chunks_are_put_together(relay: Relay) -> None:
    """BDAT (RFC 3030): no dot is doubled, and nothing ends but by its size."""
    content = _HEADER + b".dot\r\n.\r\nmore\r\n" + b"z" * 70_000 + b"\r\n"
    with relay.session() as session:
        assert "CHUNKING" in session.say("EHLO sender.example.net")
        session.say("MAIL FROM:<a@example.net> BODY=8BITMIME")
        assert session.say("RCPT TO:<alice@example.com>").startswith("250")
        for number, piece in enumerate((content[:50], content[50:30_000], content[30_000:])):
            session.put(f"BDAT {len(piece)}{' LAST' if number == 2 else ''}\r\n".encode() + piece)
            assert session.reply().startswith("250")
    ((_, kept),) = relay.opened()
    assert kept.endswith(b"\r\n" + content)


def test_how_the_client_came_is_known_at_home(relay: Relay) -> None:
    with relay.session("2001:db8::77") as session:
        session.start_tls()
        assert _send(session, _HEADER + b".\r\n").startswith("250")
    ((envelope, content),) = relay.opened()
    assert envelope.tls["protocol"] == "TLSv1.3"
    assert envelope.tls["cipher"].encode() in content
    assert envelope.client["ADDR"] == "IPv6:2001:db8::77"
    assert envelope.spf["result"] == "fail"


def test_addresses_in_utf8_and_the_null_sender(relay: Relay) -> None:
    with relay.session() as session:
        assert "SMTPUTF8" in session.say("EHLO sender.example.net")
        session.say("MAIL FROM:<jürgen@example.net> SMTPUTF8")
        assert session.say("RCPT TO:<jürgen@example.com>").startswith("250")
        session.say("DATA")
        session.put("Subject: ä\r\n\r\n.\r\n".encode())
        assert session.reply().startswith("250")
        session.say("MAIL FROM:<> RET=HDRS ENVID=x")
        assert session.say("RCPT TO:<alice@example.com> NOTIFY=NEVER").startswith("250")
        session.say("DATA")
        session.put(b"\r\n.\r\n")
        assert session.reply().startswith("250")
    (utf8, content), (null, _) = relay.opened()
    assert (utf8.sender, utf8.utf8) == ("jürgen@example.net", True)
    assert "Subject: ä\r\n".encode() in content
    assert (null.sender, null.parameters, null.spf["identity"]) == ("", {"RET": "HDRS", "ENVID": "x"}, "helo")
    assert dict(null.recipients[0][1]) == {"NOTIFY": "NEVER"}


def test_each_recipient_has_a_fate_of_its_own_and_nobody_is_relayed_for(relay: Relay) -> None:
    with relay.session() as session:
        session.say("EHLO sender.example.net")
        session.say("MAIL FROM:<a@example.net>")
        answers = {
            "alice@example.com": "250",
            "nobody@example.com": "550 5.1.1",
            "a@elsewhere.example": "554 5.7.1",
            "alice%elsewhere.example@example.com": "554",
            "@elsewhere.example:alice@example.com": "250",
            '"alice"@example.com': "250",
            "alice@[127.0.0.1]": "554",
            "postmaster": "250",
        }
        for address, answer in answers.items():
            assert session.say(f"RCPT TO:<{address}>").startswith(answer), address
        session.say("DATA")
        session.put(_HEADER + b".\r\n")
        assert session.reply().startswith("250")
        assert session.say("ETRN example.com").startswith("5")
        assert session.say("VRFY alice@example.com").startswith("5")
    ((envelope, _),) = relay.opened()
    assert [address for address, _ in envelope.recipients] == [
        *("alice@example.com", "alice@example.com", '"alice"@example.com', "postmaster")
    ]


def test_a_signature_still_holds(relay: Relay, tmp_path: Path) -> None:
    signed, records = signatures.signed(_HEADER + b".dot\r\n" + b"y " * 3000 + b"\r\n\xc3\xa4  \r\n", tmp_path)
    with relay.session() as session:
        assert _send(session, signed.replace(b"\r\n.", b"\r\n..") + b".\r\n", "BODY=8BITMIME").startswith("250")
    ((_, kept),) = relay.opened()
    assert [verdict.good for verdict in signatures.judge(kept, records)] == [True]
    assert [verdict.good for verdict in signatures.judge(kept.replace(b"\n..", b"\n."), records)] == [True]
    assert [verdict.good for verdict in signatures.judge(kept.replace(b"dot", b"d0t"), records)] == [False]


def test_what_is_too_large_is_told_by_its_size(relay: Relay) -> None:
    with relay.session() as session:
        assert f"SIZE {_LARGEST}" in session.say("EHLO sender.example.net")
        assert session.say(f"MAIL FROM:<a@example.net> SIZE={_LARGEST + 1}").startswith("552")
        assert _send(session, _HEADER + b"x" * 100 * 25_000 + b"\r\n.\r\n").startswith("552")
    assert relay.opened() == []


def test_over_the_budget_nobody_sends_in_vain(relay: Relay) -> None:
    relay.push(replace(_SETTINGS, budget=1_000_000))
    with relay.session() as session:
        session.say("EHLO sender.example.net")
        session.say("MAIL FROM:<a@example.net> SIZE=1500000")
        assert session.say("RCPT TO:<alice@example.com>").startswith("452")
        session.say("RSET")
        session.say("MAIL FROM:<a@example.net> SIZE=500000")
        assert session.say("RCPT TO:<alice@example.com>").startswith("250")


@pytest.mark.parametrize(("policy", "answer"), [("tempfail", "451"), ("reject", "550")])
def test_with_another_policy_nothing_is_kept(relay: Relay, policy: str, answer: str) -> None:
    relay.push(replace(_SETTINGS, policy=policy))
    with relay.session() as session:
        session.say("EHLO sender.example.net")
        session.say("MAIL FROM:<a@example.net>")
        assert session.say("RCPT TO:<alice@example.com>").startswith(answer)
        assert session.say("RCPT TO:<nobody@example.com>").startswith("550 5.1.1")
        assert session.say("DATA").startswith("5")
    assert relay.opened() == []


def test_who_speaks_first_is_no_mail_server(relay: Relay) -> None:
    early: socket.socket = relay.place.call(socket.create_connection, ("127.0.0.1", 10024), 20)
    with early:
        early.sendall(proxy_header(_SENDER))
        early.sendall(b"EHLO canary-early\r\n")
        answer = b""
        with suppress(ConnectionResetError):  # what was said too early is not read any more
            while more := early.recv(4096):
                answer += more
    assert b"\r\n521 5.5.1 Protocol error" in b"\r\n" + answer, answer


def test_nothing_that_is_written_leads_to_a_person(relay: Relay) -> None:
    """Neither the store nor Postfix's folders, nor its log as it goes to the journal; each with a positive control."""
    canaries = [
        b"canary-subject",
        b"canary-body",
        b"canary-sender",
        b"canary-helo",
        b"alice@example.com",
        _SENDER.encode(),
    ]
    with relay.session() as session:
        session.say("EHLO canary-helo.example")
        session.say("MAIL FROM:<canary-sender@example.net>")
        for address in ("alice@example.com", "nobody@example.com", "canary-sender@elsewhere.example"):
            session.say(f"RCPT TO:<{address}>")
        session.say("DATA")
        session.put(b"Subject: canary-subject\r\n\r\ncanary-body\r\n.\r\n")
        assert session.reply().startswith("250")
        session.say("canary-sender@example.net")
        session.say("QUIT")
    assert len(relay.opened()) == 1
    assert relay.holding(*canaries) == set()
    (planted := relay.written[1] / "planted").write_bytes(b" ".join(canaries))
    assert relay.holding(*canaries) == set(canaries)
    planted.unlink()
    wait_for(lambda: b"disconnect from" in relay.log.read_bytes().rpartition(b"canary-helo")[2], "the log")
    lines = relay.log.read_text(errors="replace").splitlines()
    told = [text.decode() for text in canaries if text.startswith((b"canary-sender", b"canary-helo", b"alice", b"203"))]
    assert all(any(text in line for line in lines) for text in told), "the control: Postfix does log them"
    redacted = [redact(line) for line in lines]
    assert [line for line in redacted if any(text in line for text in (*told, "canary", "nobody"))] == []
    assert any("disconnect from … ehlo=1 mail=1 rcpt=1/3 data=1" in line for line in redacted)


# The last one here, since Postfix is strict with everybody for a quarter of an hour then.
def test_who_says_nothing_does_not_keep_others_out_for_long(relay: Relay) -> None:
    """When all of Postfix's processes were taken, who comes then has ten seconds for each word, and not sixty."""
    with ExitStack() as stack:

        def begin(client: str) -> socket.socket:
            connection: socket.socket = relay.place.call(socket.create_connection, ("127.0.0.1", 10024), 90)
            stack.enter_context(connection).sendall(proxy_header(client))
            return connection

        held = []
        for part in range(4):  # postscreen tests so many at once
            some = [begin(f"203.0.113.{100 + part}") for _ in range(25)]
            for one in some:
                greeting = b""
                while b"220 " not in greeting:
                    greeting += one.recv(4096)
            held += some
        late = begin("203.0.113.99")
        time.sleep(4)  # it has passed the greeting's test, and finds no process
        for one in held:
            one.close()
        heard, begun = b"", time.monotonic()
        while b"421 4.4.2" not in heard and (more := late.recv(4096)):
            heard += more
    assert b"timeout" in heard, heard
    assert time.monotonic() - begun < 30
