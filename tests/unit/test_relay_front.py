"""The queue's door to Postfix: who waits for what, and whom a fault reaches."""

from __future__ import annotations

import contextlib
import smtplib
import socket
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pyrage
import pytest

import relay.front
from model.control import QueuedItem
from relay.front import SMALL, Front
from relay.reception import Reception, Terms
from relay.room import OVERHEAD, SpoolFullError
from relay.sender_policy import SenderPolicy
from relay.smtp import Reply
from relay.spool import Spool
from tests.machine.machine import wait_for
from tests.sealed import opened

_HOME = pyrage.x25519.Identity.generate()
_BUDGET = 10**8
_LEFT = b"EHLO x\r\nMAIL FROM:<a@example.net>\r\nRCPT TO:<alice@example.com>\r\nDATA\r\n"


@dataclass
class Relay:
    """A spool with its door.

    Args:
        lasts: while it is clear, storing lasts.
        told: items that were noted.
        answer: what senders' domains say, once this is set.
    """

    spool: Spool
    front: Front
    lasts: threading.Event
    batches: list[int]
    told: list[QueuedItem]
    answer: threading.Event

    def client(self) -> smtplib.SMTP:
        made = smtplib.SMTP(*self.front.address, local_hostname="sender.example.net", timeout=30)
        made.ehlo()
        return made

    def send(self, message: bytes = b"Subject: x\r\n\r\ntext\r\n") -> None:
        with self.client() as client:
            client.sendmail("a@example.net", ["alice@example.com"], message)

    def room_is_back(self) -> bool:
        with suppress(SpoolFullError), self.spool.room(_BUDGET - OVERHEAD - self.spool.usage()[1]):
            return True
        return False


@contextmanager
def _running(front: Front) -> Iterator[None]:
    thread = threading.Thread(target=front.serve)
    thread.start()
    with socket.create_connection(front.address) as one:
        assert one.recv(3) == b"220"
    try:
        yield
    finally:
        front.stop()
        thread.join(60)
        assert not thread.is_alive()


@pytest.fixture
def relay_at_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Relay]:
    lasts, answer = threading.Event(), threading.Event()
    batches: list[int] = []
    told: list[QueuedItem] = []
    lasts.set()
    answer.set()
    store_all = Spool.store_all

    def store_when_it_may(spool: Spool, messages: Sequence[object]) -> list[QueuedItem | Exception]:
        batches.append(len(messages))
        assert lasts.wait(60)
        return store_all(spool, messages)  # type: ignore[arg-type]

    def check(_address: str, _sender: str, _helo: str, _seconds: float) -> str:
        assert answer.wait(60)
        return "pass"

    monkeypatch.setattr(Spool, "store_all", store_when_it_may)
    spool = Spool(tmp_path, [str(_HOME.to_public())], _BUDGET)
    policy = SenderPolicy(check)
    terms = Terms(
        "mx.example.com",
        30_000_000,
        lambda _: Reply(250, "2.1.5 Ok"),
        sender_policy=policy,
        kept=lambda item, _envelope, _id: told.append(item),
        is_quick=lambda address: not address.startswith("guess"),
    )
    with socket.create_server(("127.0.0.1", 0)) as listener:
        front = Front(listener, lambda client: Reception(client, terms, spool, lambda: 0.0), spool, most=20)
        with _running(front):
            yield Relay(spool, front, lasts, batches, told, answer)
            lasts.set()
            answer.set()
    policy.stop()


def test_those_who_come_while_the_disk_is_busy_are_kept_together(relay_at_work: Relay) -> None:
    relay_at_work.lasts.clear()
    with ThreadPoolExecutor(9) as pool:
        first = pool.submit(relay_at_work.send)
        wait_for(lambda: relay_at_work.batches == [1], "the first is being kept")
        others = [pool.submit(relay_at_work.send, b"Subject: %d\r\n\r\n" % number) for number in range(8)]
        wait_for(lambda: len(relay_at_work.front._whole) == 8, "the others have come")
        assert not any(one.done() for one in (first, *others))
        relay_at_work.lasts.set()
        for one in (first, *others):
            one.result(30)
    assert relay_at_work.batches == [1, 8]
    assert len(opened(relay_at_work.spool, _HOME)) == 9
    assert [item.id for item in relay_at_work.told] == [item.id for item in relay_at_work.spool.items()]


def test_who_goes_on_talking_while_he_waits_is_heard_afterwards(relay_at_work: Relay) -> None:
    relay_at_work.lasts.clear()
    with socket.create_connection(relay_at_work.front.address) as raw, raw.makefile("rb") as file:
        raw.settimeout(30)
        raw.sendall(_LEFT + b"one\r\n.\r\nMAIL FROM:<>\r\n")
        wait_for(lambda: relay_at_work.batches == [1], "the first is being kept")
        raw.sendall(b"RCPT TO:<alice@example.com>\r\nDATA\r\ntwo\r\n.\r\nQUIT\r\n")
        wait_for(lambda: any(one.deaf for one in relay_at_work.front._clients.values()), "it has spoken")
        relay_at_work.lasts.set()
        codes = [line[:4] for line in file]
    assert codes[-7:] == [b"354 ", b"250 ", b"250 ", b"250 ", b"354 ", b"250 ", b"221 "]
    assert [message for _, message in opened(relay_at_work.spool, _HOME)] == [b"one\r\n", b"two\r\n"]


def test_who_goes_while_his_message_is_being_kept_leaves_it(relay_at_work: Relay) -> None:
    relay_at_work.lasts.clear()
    with socket.create_connection(relay_at_work.front.address) as raw:
        raw.sendall(_LEFT + b"one\r\n.\r\n")
        wait_for(lambda: relay_at_work.batches == [1], "it is being kept")
    relay_at_work.lasts.set()
    wait_for(lambda: len(relay_at_work.told) == 1, "it is there, and a notice about it can be sent")
    wait_for(lambda: not relay_at_work.front._clients, "its client has gone")
    assert relay_at_work.room_is_back()
    relay_at_work.send()


def test_a_large_message_holds_up_nobody(relay_at_work: Relay) -> None:
    body = b"x" * 998 + b"\r\n"
    with socket.create_connection(relay_at_work.front.address) as raw, raw.makefile("rb") as file:
        raw.settimeout(30)
        raw.sendall(_LEFT + body * (SMALL // len(body) + 1))
        wait_for(lambda: len(relay_at_work.front._slow) == 1, "it has a thread")
        relay_at_work.send()
        assert len(relay_at_work.spool.items()) == 1
        raw.sendall(body + b".\r\nQUIT\r\n")
        assert file.readlines()[-2].startswith(b"250 ")
    wait_for(lambda: not relay_at_work.front._slow, "its thread has ended")
    assert [len(message) for _, message in opened(relay_at_work.spool, _HOME)] == [20, (SMALL // 1000 + 2) * 1000]
    assert relay_at_work.room_is_back()


def test_a_domain_that_answers_late_holds_up_nobody_else(relay_at_work: Relay) -> None:
    relay_at_work.answer.clear()
    with ThreadPoolExecutor(1) as pool, relay_at_work.client() as client:
        client.docmd("XFORWARD", "ADDR=192.0.2.7 HELO=sender.example.net")
        late = pool.submit(client.sendmail, "a@example.net", ["alice@example.com"], b"late\r\n")
        wait_for(lambda: len(relay_at_work.front._slow) == 1, "it has a thread")
        relay_at_work.send(b"quick\r\n")
        relay_at_work.answer.set()
        late.result(30)
    kept = opened(relay_at_work.spool, _HOME)
    assert [message for _, message in kept] == [b"quick\r\n", b"late\r\n"]
    assert [envelope.spf.get("result") for envelope, _ in kept] == [None, "pass"]


def test_who_asks_for_strangers_holds_up_nobody(relay_at_work: Relay, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = threading.Event()

    def judge(address: str) -> Reply:
        if address.startswith("guess"):
            assert asked.wait(60)
        return Reply(250, "2.1.5 Ok")

    monkeypatch.setattr(Terms, "answer", lambda _terms, address: judge(address))
    with ThreadPoolExecutor(1) as pool, relay_at_work.client() as client:
        client.mail("a@example.net")
        guess = pool.submit(client.rcpt, "guess@example.com")
        wait_for(lambda: len(relay_at_work.front._slow) == 1, "it has a thread")
        relay_at_work.send()
        asked.set()
        assert guess.result(30)[0] == 250
        assert client.data(b"from the thread\r\n")[0] == 250
    assert len(relay_at_work.spool.items()) == 2


@pytest.mark.parametrize("where", ["do", "keep"])
def test_a_fault_of_our_own_ends_one_session(relay_at_work: Relay, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    method = getattr(Reception, where)

    def fail(reception: Reception, *arguments: object) -> object:
        if b"poison" in repr(arguments).encode():
            raise ValueError("canary@example.net")
        return method(reception, *arguments)

    monkeypatch.setattr(Reception, where, fail)
    seen: list[type[BaseException]] = []
    monkeypatch.setattr(threading, "excepthook", lambda fault: seen.append(fault.exc_type))
    with relay_at_work.client() as bystander:
        # What was kept before the fault is acknowledged.
        wrong = contextlib.nullcontext() if where == "keep" else pytest.raises(smtplib.SMTPServerDisconnected)
        with wrong, relay_at_work.client() as client:
            client.sendmail("poison@example.net", ["alice@example.com"], b"Subject: poison\r\n\r\n")
        assert seen == [ValueError]
        bystander.sendmail("a@example.net", ["alice@example.com"], b"well\r\n")
    assert relay_at_work.room_is_back()


def test_who_says_nothing_is_left(relay_at_work: Relay, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay.front, "PATIENCE", 0.0)
    with socket.create_connection(relay_at_work.front.address) as raw:
        raw.settimeout(30)
        while raw.recv(100):
            pass


def test_a_client_that_takes_no_answers_is_read_no_further(relay_at_work: Relay) -> None:
    with socket.socket() as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.connect(relay_at_work.front.address)
        raw.settimeout(1)
        with pytest.raises(TimeoutError):
            raw.sendall(b"NOOP\r\n" * 10**7)
        (client,) = relay_at_work.front._clients.values()
        assert len(client.unsent) < 20 * 2**20
        relay_at_work.send()


def test_without_a_thread_for_it_a_large_message_is_asked_for_again(
    relay_at_work: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fail)
        with pytest.raises((smtplib.SMTPServerDisconnected, OSError)):
            relay_at_work.send(b"x" * 10 * SMALL)
    assert relay_at_work.room_is_back()
    relay_at_work.send(b"x" * 10 * SMALL)
    assert len(relay_at_work.spool.items()) == 1


def test_those_whose_messages_are_kept_when_it_ends_hear_of_it(relay_at_work: Relay) -> None:
    relay_at_work.lasts.clear()
    with socket.create_connection(relay_at_work.front.address) as raw, raw.makefile("rb") as file:
        raw.settimeout(30)
        raw.sendall(_LEFT + b"one\r\n.\r\n")
        wait_for(lambda: relay_at_work.batches == [1], "it is being kept")
        relay_at_work.front.stop()
        relay_at_work.lasts.set()
        assert file.readlines()[-1].startswith(b"250 ")
