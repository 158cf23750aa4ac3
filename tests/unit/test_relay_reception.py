"""Messages over a real socket, from a real client, into a real spool."""

from __future__ import annotations

import contextlib
import errno
import os
import smtplib
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pyrage
import pytest

from model.control import QueuedItem
from model.envelope import Envelope, Reader
from relay.front import Front
from relay.reception import Kept, Policy, Reception, Terms, converse
from relay.room import OVERHEAD, Room, SpoolFullError
from relay.server import Server
from relay.smtp import Reply
from relay.spool import Spool, SpoolError
from tests.machine.machine import wait_for
from tests.sealed import opened

_HOME = pyrage.x25519.Identity.generate()
_LARGEST = 30_000_000
_NOW = 1_795_478_400.5
_BODY = b"Subject: x\r\n\r\n.dot\r\n" + b"y" * 100_000 + b"\xff\0\r\n"


def _judge(address: str) -> Reply:
    return Reply(550, "5.1.1 Unknown") if address.startswith("nobody@") else Reply(250, "2.1.5 Ok")


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path, [str(_HOME.to_public())], 10**8)


def _terms(kept: Kept = lambda _item, _envelope, _message_id: None) -> Terms:
    return Terms("mx.example.com", _LARGEST, _judge, kept=kept)


@contextlib.contextmanager
def _serving(server: Front | Server) -> Iterator[None]:
    thread = threading.Thread(target=server.serve)
    thread.start()
    try:
        yield
    finally:
        server.stop()
        thread.join()


@pytest.fixture(params=["a thread for all", "a thread for each"])
def server(spool: Spool, request: pytest.FixtureRequest) -> Iterator[Front | Server]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        made: Front | Server
        if request.param == "a thread for all":
            made = Front(listener, lambda client: Reception(client, _terms(), spool, lambda: _NOW), spool, most=8)
        else:
            made = Server(listener, partial(converse, terms=_terms(), spool=spool, now=lambda: _NOW), most=8)
        with _serving(made):
            yield made


def _client(server: Front | Server) -> smtplib.SMTP:
    return smtplib.SMTP(*server.address, local_hostname="sender.example.net", timeout=30)


@pytest.fixture
def client(server: Front | Server) -> Iterator[smtplib.SMTP]:
    with _client(server) as made:
        yield made


def test_a_message_is_kept_as_it_was_sent(client: smtplib.SMTP, spool: Spool) -> None:
    client.ehlo()
    client.docmd("XFORWARD", "ADDR=192.0.2.7 HELO=sender.example.net")
    refused = client.sendmail("a@example.net", ["alice@example.com", "nobody@example.com", "bob@example.com"], _BODY)
    assert refused == {"nobody@example.com": (550, b"5.1.1 Unknown")}
    ((envelope, message),) = opened(spool, _HOME)
    assert message == _BODY
    assert envelope.sender == "a@example.net"
    assert [address for address, _ in envelope.recipients] == ["alice@example.com", "bob@example.com"]
    assert envelope.client == {"HELO": "sender.example.net", "ADDR": "192.0.2.7"}
    assert envelope.received == 1_795_478_400_500


def test_many_at_once_and_one_after_the_other(server: Front | Server, spool: Spool) -> None:
    def send(number: int) -> None:
        with _client(server) as client:
            for index in range(5):
                client.sendmail("", ["alice@example.com"], b"Subject: %d-%d\r\n\r\n" % (number, index) + b"z" * 10_000)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(send, range(8)))
    subjects = {message.split(b"\r\n")[0] for _, message in opened(spool, _HOME)}
    assert subjects == {b"Subject: %d-%d" % (number, index) for number in range(8) for index in range(5)}


def test_a_client_that_goes_in_the_middle_leaves_nothing(server: Front | Server, spool: Spool, tmp_path: Path) -> None:
    with socket.create_connection(server.address) as raw:
        raw.sendall(b"EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<a@b>\r\nDATA\r\n" + b"x" * 300_000 + b"\r\n.\r")

    def is_as_before() -> bool:
        with contextlib.suppress(SpoolFullError), spool.room(10**8 - OVERHEAD):
            return [path.name for path in tmp_path.iterdir()] == ["epoch.json"]
        return False

    wait_for(is_as_before, "nothing is left of it, and its room is there again")


@pytest.mark.parametrize(("failure", "code"), [(SpoolFullError("full"), 452), (SpoolError("broken"), 451)])
def test_a_disk_that_fails_on_the_way_is_told_at_the_end(
    client: smtplib.SMTP, spool: Spool, failure: Exception, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Spool.store

    def fail(_spool: Spool, _envelope: Envelope, message: Reader, _room: Room) -> QueuedItem:
        message.read(1)
        raise failure

    monkeypatch.setattr(Spool, "store", fail)
    with pytest.raises(smtplib.SMTPDataError) as refused:
        client.sendmail("a@example.net", ["alice@example.com"], _BODY)
    assert refused.value.smtp_code == code
    assert spool.items() == []
    monkeypatch.setattr(Spool, "store", store)
    client.sendmail("a@example.net", ["alice@example.com"], _BODY)
    assert len(spool.items()) == 1


def test_no_room_is_told_before_anything_is_sent(client: smtplib.SMTP) -> None:
    client.ehlo()
    for _ in range(4):
        client.sendmail("a@example.net", ["alice@example.com"], b"x" * 24_000_000)
    assert client.mail("a@example.net", ["SIZE=24000000"])[0] == 452
    assert client.mail("a@example.net", ["SIZE=1000"])[0] == 250


def test_a_disk_that_has_gone_is_told_before_anything_is_sent(
    client: smtplib.SMTP, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_path: object) -> os.statvfs_result:
        raise OSError(errno.EIO, "gone")

    client.ehlo()
    with monkeypatch.context() as patch:
        patch.setattr(os, "statvfs", fail)
        assert client.mail("a@example.net")[0] == 451
    client.mail("a@example.net")
    client.rcpt("alice@example.com")
    with monkeypatch.context() as patch:
        patch.setattr(os, "statvfs", fail)
        assert client.docmd("DATA")[0] == 451
    assert client.data(b"x")[0] == 250


def test_a_message_that_said_no_size_or_a_wrong_one_gets_room_as_it_comes(client: smtplib.SMTP, spool: Spool) -> None:
    client.ehlo()
    for options in ([], ["SIZE=5"]):
        client.mail("a@example.net", options)
        client.rcpt("alice@example.com")
        assert client.data(b"x" * 5_000_000)[0] == 250
    for _ in range(10):
        client.mail("a@example.net")
        client.rcpt("alice@example.com")
        code, _ = client.data(b"x" * 24_000_000)
    assert code == 452
    assert sum(item.size for item in spool.items()) <= 10**8


def test_the_envelope_takes_room_as_well(client: smtplib.SMTP, spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    client.ehlo()
    client.mail("a@example.net")
    for _ in range(500):
        client.rcpt("alice@example.com", ["ORCPT=rfc822;" + "x" * 3900])
    asked: list[int] = []
    room = spool.room

    def ask(octets: int, *, said: bool) -> contextlib.AbstractContextManager[Room]:
        asked.append(octets)
        return room(octets, said=said)

    monkeypatch.setattr(spool, "room", ask)
    assert client.data(b"x")[0] == 250
    (stored,) = spool.items()
    assert asked[0] < stored.size < asked[0] + OVERHEAD


@pytest.mark.parametrize("server", ["a thread for each"], indirect=True)
def test_a_shortage_of_threads_passes(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fail)
        with pytest.raises(smtplib.SMTPConnectError) as refused:
            _client(server)
    assert refused.value.smtp_code == 421
    with _client(server) as client:
        assert client.noop()[0] == 250


def _listen(connection: socket.socket) -> None:
    connection.recv(1)


def test_who_comes_when_it_stops_is_not_waited_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        made = Server(listener, _listen)
        accept, coming = socket.socket.accept, threading.Event()

        class Listener:
            """Stops the service between a client's coming and its being known."""

            def accept(self) -> object:
                found = accept(listener)
                made.stop()
                coming.set()
                return found

            def shutdown(self, how: int) -> None:
                listener.shutdown(how)

        made._listener = Listener()  # type: ignore[assignment]
        thread = threading.Thread(target=made.serve, daemon=True)
        thread.start()
        with socket.create_connection(listener.getsockname()):
            assert coming.wait(30)
            thread.join(10)
            assert not thread.is_alive()


def test_a_message_that_is_too_large_is_told_so(client: smtplib.SMTP, spool: Spool) -> None:
    client.ehlo()
    client.mail("a@example.net")
    client.rcpt("alice@example.com")
    assert client.data(b"x" * (_LARGEST + 1))[0] == 552
    assert spool.items() == []
    assert client.noop()[0] == 250


def test_who_comes_to_a_full_house_is_asked_to_come_again(server: Front | Server) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(8):
            stack.enter_context(_client(server))
        with pytest.raises(smtplib.SMTPConnectError) as refused:
            _client(server)
    assert refused.value.smtp_code == 421


@pytest.mark.parametrize(("policy", "known"), [("queue", 250), ("tempfail", 451), ("reject", 550)])
def test_what_becomes_of_mail_is_the_sites_choice(policy: str, known: int) -> None:
    terms = Terms("mx.example.com", _LARGEST, _judge, Policy(policy))
    assert terms.answer("alice@example.com").code == known
    assert terms.answer("nobody@example.com") == Reply(550, "5.1.1 Unknown")


def test_room_grows_and_is_given_back() -> None:
    promised = [0]

    def promise(octets: int) -> None:
        promised[0] += octets

    room = Room(promise)
    for octets in (0, 10, 5, 1000):
        room.grow_to(octets)
    assert promised == [1000 + OVERHEAD] == [room.octets]
