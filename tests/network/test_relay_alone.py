"""A relay whose home is away: it asks every sender to come again, takes nothing, and is nobody's way to anywhere."""

from __future__ import annotations

import contextlib
import re
import smtplib
import socket
import time
from collections import Counter
from collections.abc import Iterator

import pytest

from tests import mail
from tests.machine.machine import wait_for
from tests.network.conftest import ADDRESSES, RELAY_ADDRESS, RELAY_ADDRESS_6, RELAY_NAME, Ends
from tests.network.handshake import is_answered
from tests.network.net import Namespace, join, namespace, wireguard
from tests.network.relay import Relay

_ALICE = "alice@example.com"
_PASSED_ON = {25, 465, 587, 993, 443}


@pytest.fixture(scope="module", autouse=True)
def _home_is_away(relay: Relay) -> None:
    wait_for(lambda: relay.home_is("DOWN"), "HAProxy has seen that home is away")


@pytest.fixture(params=[RELAY_ADDRESS, RELAY_ADDRESS_6], ids=["IPv4", "IPv6"])
def session(request: pytest.FixtureRequest, world: Namespace) -> Iterator[smtplib.SMTP]:
    with world.call(smtplib.SMTP, request.param, 25, "sender.example.net", 30) as opened:
        yield opened


@pytest.mark.parametrize("sender", ["a@example.net", "", _ALICE])
def test_a_sender_is_asked_to_come_again(session: smtplib.SMTP, sender: str) -> None:
    session.starttls(context=mail.any_certificate())
    session.ehlo()
    session.mail(sender)
    code, text = session.rcpt(_ALICE)
    assert (code, text.split()[0]) == (450, b"4.3.2")
    assert session.docmd("DATA")[0] == 554


def test_it_says_how_large_a_message_may_be(session: smtplib.SMTP) -> None:
    session.ehlo()
    assert session.esmtp_features["size"] == str(50 * 2**20)
    assert session.mail("a@example.net", ["SIZE=50000000"])[0] == 250


def test_its_certificate_and_its_greeting_have_the_same_name(session: smtplib.SMTP) -> None:
    code, greeting = session.ehlo()
    session.starttls(context=mail.any_certificate())
    certificate = session.sock.getpeercert(binary_form=True)  # type: ignore[union-attr]
    assert greeting.split()[0].decode() == RELAY_NAME
    assert code == 250
    assert RELAY_NAME.encode() in certificate


@pytest.mark.parametrize("sender", ["a@example.net", "", _ALICE, "postmaster", f"root@{RELAY_NAME}"])
def test_nobody_can_relay(world: Namespace, relay: Relay, sender: str) -> None:
    tried = [
        "a@example.net",
        "a%example.net",
        "a%example.net@example.com",
        f"a%example.net@{RELAY_NAME}",
        f"a%example.net@[{RELAY_ADDRESS}]",
        '"a@example.net"',
        '"a@example.net"@example.com',
        "a@example.net@example.com",
        "@example.com:a@example.net",
        "@example.com,@example.org:a@example.net",
        "example.net!a",
        "example.net!a@example.com",
        f"a@[{RELAY_ADDRESS}]",
        f"a@[IPv6:{RELAY_ADDRESS_6}]",
        "a@[127.0.0.1]",
        "a@localhost",
        "a@example.com.example.net",
        "a@sub.example.com",
        f"a@{RELAY_NAME}",
        "root",
    ]
    codes = {}
    for recipient in tried:
        with world.call(smtplib.SMTP, RELAY_ADDRESS, 25, "sender.example.net", 30) as session:
            session.docmd("EHLO sender.example.net")
            session.docmd(f"MAIL FROM:<{sender}>")
            codes[recipient] = session.docmd(f"RCPT TO:<{recipient}>")[0]
            assert session.docmd("DATA")[0] in {503, 554}
    assert {recipient: code for recipient, code in codes.items() if code < 400} == {}
    assert _queue_files(relay) == []


def test_it_has_no_queue(relay: Relay) -> None:
    """No message had a queue id, and Postfix has no folder in which one could lie."""
    assert re.search(r": [0-9A-F]{8,}: |: [0-9A-Za-z]{12,}: (?:client|message-id)=", relay.log.read_text()) is None
    assert _queue_files(relay) == []


def _queue_files(relay: Relay) -> list[str]:
    found = relay.in_postfix("find", "/var/spool/postfix", "-type", "f", "-size", "+0")
    return [line for line in found.splitlines() if "/pid/" not in line and not line.endswith("master.lock")]


def test_nobody_on_it_can_send(relay: Relay) -> None:
    said = relay.in_postfix("sendmail", "-f", "root@example.com", "a@example.net", stdin="Subject: x\n\nhello\n")
    assert "not allowed to submit mail" in said or "not authorized" in said
    assert _queue_files(relay) == []
    assert not relay.place.can_connect(25, "203.0.113.9")


def test_the_world_reaches_what_it_passes_on_and_nothing_else(world: Namespace) -> None:
    ports = [*range(1, 1200), 2500, 2525, 2465, 2587, 2993, 10024, 10025, 10026, 11332, 11334, 51820]
    assert world.reachable(ports, RELAY_ADDRESS) == _PASSED_ON
    assert world.reachable(ports, RELAY_ADDRESS_6) == _PASSED_ON


def test_home_reaches_nothing_on_the_relay(world: Namespace, relay: Relay, ends: Ends) -> None:
    with namespace() as home:
        join(world, home, ("home", "eth0"), ("198.51.100.1/24", "198.51.100.2/24"))
        home.run("ip", "route", "add", "default", "via", "198.51.100.1")
        world.run("sysctl", "--quiet", "--write", "net.ipv4.ip_forward=1")
        relay.place.run("ip", "route", "replace", "198.51.100.0/24", "via", "203.0.113.9")
        own = [f"{ADDRESSES.home4}/24", f"{ADDRESSES.home6}/64"]
        peer = [ends.home.relay_key, "endpoint", f"{RELAY_ADDRESS}:51820", "allowed-ips", "0.0.0.0/0,::/0"]
        with wireguard(home, "relay0", own, ends.home.private_key, peer):
            ports = [*range(1, 1200), 2500, 10024, 51820]
            assert home.reachable(ports, str(ADDRESSES.relay4)) == set()
            assert home.reachable(ports, str(ADDRESSES.relay6)) == set()
            # The tunnel itself works: the relay takes part in the handshake, and answers nothing else.
            assert "latest handshake" in home.run("wg", "show", "relay0")


def test_a_home_whose_clock_was_set_back_is_heard_when_it_has_been_silent(
    world: Namespace, relay: Relay, ends: Ends
) -> None:
    """Before, it is taken for a replay of its own handshakes (WireGuard's paper, §5.1)."""
    now = int(time.time())
    early = now - 3600
    relay.forget_silent_home(later=400)
    assert world.call(is_answered, ends.home, RELAY_ADDRESS, now)
    assert not world.call(is_answered, ends.home, RELAY_ADDRESS, early)
    relay.forget_silent_home(later=400)
    assert world.call(is_answered, ends.home, RELAY_ADDRESS, early)


def test_who_does_not_speak_tls_gets_no_connection(world: Namespace) -> None:
    """Slow ones are sent off after ten seconds, and so is who speaks something else."""
    begun = time.monotonic()
    with world.call(socket.create_connection, (RELAY_ADDRESS, 993), 30) as silent:
        assert silent.recv(1) == b""
    assert 5 < time.monotonic() - begun < 20
    with world.call(socket.create_connection, (RELAY_ADDRESS, 993), 30) as plain:
        plain.sendall(b"a1 LOGIN alice secret\r\n")
        with contextlib.suppress(ConnectionResetError):
            assert plain.recv(1) == b""


def test_one_client_gets_so_many_connections_and_others_theirs(world: Namespace) -> None:
    world.run("ip", "address", "replace", "203.0.113.10/24", "dev", "relay")
    with contextlib.ExitStack() as stack:
        greeted = Counter(_greeting(stack, world, "203.0.113.9") for _ in range(110))
        assert sum(greeted.values()) - greeted[""] == 100
        # Postfix takes half as many, and tells the others to come again.
        assert greeted["220"] == greeted["421"] == 50
        assert _greeting(stack, world, "203.0.113.10") == "220"


def _greeting(stack: contextlib.ExitStack, world: Namespace, source: str) -> str:
    try:
        opened = stack.enter_context(world.call(socket.create_connection, (RELAY_ADDRESS, 25), 30, (source, 0)))
        return opened.recv(100)[:3].decode()
    except ConnectionResetError:
        return ""


def test_haproxy_writes_nothing_about_clients(relay: Relay) -> None:
    """Only backends log, which is their servers' state; a client's connection belongs to a frontend."""
    sections = re.split(r"^(?=\w)", relay.settings("etc/haproxy/haproxy.cfg"), flags=re.MULTILINE)
    logging = {text.split()[0] for text in sections if re.search(r"^\tlog ", text, re.MULTILINE)}
    assert logging == {"global", "backend"}
