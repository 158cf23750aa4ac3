"""What the relay sends itself, to a real server over sockets, and the DNS's answers on the way there."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import dns.exception
import dns.message
import dns.name
import dns.resolver
import pyrage
import pytest

from relay.delivery import LaterError, NeverError, Route, addresses_by_dns, send, servers_by_dns
from relay.reception import Policy, Terms, converse
from relay.server import Server
from relay.smtp import Reply
from relay.spool import Spool
from tests.sealed import opened

_HOME = pyrage.x25519.Identity.generate()
_MESSAGE = b"Subject: x\r\n\r\n.dot\r\n"


def _judge(address: str) -> Reply:
    local, _, _ = address.partition("@")
    return {"never": Reply(550, "5.1.1 No"), "later": Reply(450, "4.2.0 Later")}.get(local, Reply(250, "2.1.5 Ok"))


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path, [str(_HOME.to_public())], 10**8)


@pytest.fixture
def route(spool: Spool) -> Iterator[Route]:
    """The way to a server, behind one that is down."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        terms = Terms("mx.example.net", 10**6, _judge, Policy.QUEUE)
        server = Server(listener, partial(converse, terms=terms, spool=spool))
        thread = threading.Thread(target=server.serve)
        thread.start()
        port = listener.getsockname()[1]
        places = {"down.example.net": ["127.0.0.2"], "mx.example.net": ["127.0.0.1"]}
        yield Route(lambda _: list(places), lambda name: places[name], port)
        server.stop()
        thread.join()


@pytest.mark.parametrize("recipient", ["a@example.net", "jürgen@example.net"])
def test_it_goes_to_the_next_server_when_one_is_down(spool: Spool, route: Route, recipient: str) -> None:
    send(_MESSAGE, "", recipient, "mx.example.com", route)
    ((envelope, message),) = opened(spool, _HOME)
    assert (envelope.sender, [address for address, _ in envelope.recipients]) == ("", [recipient])
    assert message == _MESSAGE
    assert envelope.client["HELO"] == "mx.example.com"


@pytest.mark.parametrize("said", [b"554 5.7.1 not from you\r\n", b"220 x ESMTP\r\n502 no\r\n502 no\r\n"])
def test_it_goes_to_the_next_server_when_one_speaks_with_nobody(spool: Spool, route: Route, said: bytes) -> None:
    """Of the message it has said nothing, and some domains name such a server on purpose."""
    with socket.create_server(("127.0.0.2", route.port)) as listener:

        def refuse() -> None:
            connection, _ = listener.accept()
            with connection, suppress(OSError):
                connection.sendall(said)
                while connection.recv(1000):
                    pass

        thread = threading.Thread(target=refuse)
        thread.start()
        send(_MESSAGE, "", "a@example.net", "mx.example.com", route)
        thread.join()
        assert len(opened(spool, _HOME)) == 1


@pytest.mark.parametrize(("recipient", "failure"), [("never@x", NeverError), ("later@x", LaterError)])
def test_a_refusal_is_told_without_the_address(route: Route, recipient: str, failure: type[Exception]) -> None:
    with pytest.raises(failure, match=r"[45]50") as told:
        send(_MESSAGE, "", recipient, "mx.example.com", route)
    assert "@" not in str(told.value)


@pytest.mark.parametrize("addresses", [[], ["127.0.0.2"]])
def test_a_server_that_is_not_there_may_come(addresses: Sequence[str]) -> None:
    with pytest.raises(LaterError):
        send(_MESSAGE, "", "a@x", "mx", Route(lambda _: ["x"], lambda _: addresses, 9))


def test_a_server_that_drips_does_not_hold_others_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relay.delivery._WHOLE", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def drip() -> None:
            connection, _ = listener.accept()
            with connection, suppress(OSError):
                for _ in range(100):
                    connection.sendall(b"220-wait\r\n")
                    time.sleep(0.1)

        thread = threading.Thread(target=drip)
        thread.start()
        begun = time.monotonic()
        route = Route(lambda _: ["x"], lambda _: ["127.0.0.1"] * 100, listener.getsockname()[1])
        with pytest.raises(LaterError):
            send(_MESSAGE, "", "a@x", "mx", route)
        assert time.monotonic() - begun < 3
        thread.join()


def _answers(monkeypatch: pytest.MonkeyPatch, *found: tuple[int, str]) -> None:
    class _One:
        def __init__(self, preference: int, exchange: str) -> None:
            self.preference, self.exchange = preference, dns.name.from_text(exchange)

    monkeypatch.setattr(dns.resolver, "resolve", lambda *_, **__: [_One(*one) for one in found])


def test_the_best_server_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    _answers(monkeypatch, (20, "b.example."), (10, "a.example."))
    assert servers_by_dns("example.net") == ["a.example", "b.example"]


def test_a_domain_that_takes_no_mail_gets_none(monkeypatch: pytest.MonkeyPatch) -> None:
    _answers(monkeypatch, (0, "."))
    with pytest.raises(NeverError, match="no mail"):
        servers_by_dns("example.net")


@pytest.mark.parametrize(
    ("failure", "told"), [(dns.resolver.NXDOMAIN, NeverError), (dns.exception.Timeout, LaterError)]
)
def test_what_the_dns_does_not_say(
    monkeypatch: pytest.MonkeyPatch, failure: type[Exception], told: type[Exception]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise failure

    monkeypatch.setattr(dns.resolver, "resolve", fail)
    with pytest.raises(told):
        servers_by_dns("example.net")


def test_without_mx_a_domain_is_its_own_server(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        failure: Any = dns.resolver.NoAnswer
        raise failure(response=dns.message.make_query("x.", "MX"))

    monkeypatch.setattr(dns.resolver, "resolve", fail)
    assert servers_by_dns("bücher.example") == ["xn--bcher-kva.example"]


@pytest.mark.parametrize("server", ["127.0.0.1", "10.1.2.3", "169.254.169.254", "::1", "fd00::1"])
def test_no_stranger_sends_us_into_our_own_networks(server: str) -> None:
    assert addresses_by_dns(server) == []
