"""Home behind its relay: whoever connects to the relay talks to home, and home talks to the world through it."""

from __future__ import annotations

import contextlib
import imaplib
import smtplib
import socket
import ssl
import uuid
from collections.abc import Iterator

import pytest

from tests import mail
from tests.machine.conftest import PASSWORD
from tests.machine.machine import Machine, wait_for
from tests.machine.relay import Sink, Watch
from tests.network.conftest import (
    ADDRESSES,
    FAMILIAR_ADDRESS,
    FAMILIAR_ADDRESS_6,
    HOME_ADDRESS,
    RELAY_ADDRESS,
    RELAY_ADDRESS_6,
    SENDER_ADDRESS,
    SENDER_ADDRESS_6,
    UPLINK_ADDRESS,
    know,
)
from tests.network.net import Namespace
from tests.network.relay import Relay

_ALICE = "alice@example.com"
_STRANGER = "stranger@example.net"


def _connect(world: Namespace, source: str, port: int = 25) -> smtplib.SMTP:
    host = RELAY_ADDRESS_6 if ":" in source else RELAY_ADDRESS
    return world.call(smtplib.SMTP, host, port, "sender.example.net", 60, (source, 0))


def _mailbox(world: Namespace) -> imaplib.IMAP4_SSL:
    return world.call(mail.mailbox, 993, _ALICE, PASSWORD, host=RELAY_ADDRESS)


def _log(home: Machine, unit: str) -> str:
    return home.run("journalctl", "--boot", "--no-pager", "--output=cat", f"--unit={unit}.service")


# ---- In


@pytest.mark.parametrize("source", [FAMILIAR_ADDRESS, FAMILIAR_ADDRESS_6])
def test_mail_comes_in_and_home_knows_who_sent_it(world: Namespace, home: Machine, source: str) -> None:
    subject = f"test {uuid.uuid4()}"
    with _connect(world, source) as session:
        session.starttls(context=mail.any_certificate())
        session.sendmail(_STRANGER, _ALICE, mail.letter(subject, _STRANGER, _ALICE))
    box = _mailbox(world)
    received = mail.fetch(box, subject)
    box.logout()
    shown = f"IPv6:{source}" if ":" in source else source
    assert f"Received: from sender.example.net (unknown [{shown}])".encode() in received
    assert f"client=unknown[{source}]" in _log(home, "postfix")


@pytest.mark.parametrize("source", [SENDER_ADDRESS, SENDER_ADDRESS_6])
@pytest.mark.usefixtures("home")
def test_a_sender_hears_homes_own_verdict(world: Namespace, source: str) -> None:
    with _connect(world, source) as session:
        session.ehlo()
        session.mail(_STRANGER)
        code, text = session.rcpt("nobody@example.com")
        assert (code, b"5.1.1" in text) == (550, True)
        assert session.rcpt("a@example.net")[0] == 554
        assert session.rcpt(_ALICE)[0] == 250
        code, text = session.data(mail.letter("from a stranger", _STRANGER, _ALICE))
        assert (code, b"Greylisted" in text) == (451, True)


@pytest.mark.parametrize("port", [465, 587, 993])
def test_tls_ends_at_home(world: Namespace, home: Machine, relay: Relay, port: int) -> None:
    own = ssl.PEM_cert_to_DER_cert(_first_certificate(home.run("cat", "/data/tls/mail.pem")))
    if port == 587:
        session = _connect(world, SENDER_ADDRESS, 587)
        session.starttls(context=mail.any_certificate())
        assert isinstance(session.sock, ssl.SSLSocket)
        shown = session.sock.getpeercert(binary_form=True)
        session.quit()
    else:
        plain = world.call(socket.create_connection, (RELAY_ADDRESS, port), 30)
        with mail.any_certificate().wrap_socket(plain) as secured:
            shown = secured.getpeercert(binary_form=True)
    assert shown == own
    theirs = ssl.PEM_cert_to_DER_cert(_first_certificate(relay.in_postfix("cat", "/etc/postfix/mx.example.com.pem")))
    assert shown != theirs


def _first_certificate(pem: str) -> str:
    _, mark, rest = pem.partition("-----BEGIN CERTIFICATE-----")
    return mark + rest.partition("-----END CERTIFICATE-----")[0] + "-----END CERTIFICATE-----\n"


@pytest.mark.parametrize("secured", [True, False], ids=["STARTTLS", "plain (the control)"])
def test_the_relay_sees_nothing_of_a_message_under_tls(
    world: Namespace, home: Machine, relay: Relay, secured: bool
) -> None:
    canary = f"canary-{uuid.uuid4()}"
    watches = [Watch(relay.place, name) for name in ("eth0", "home0")]
    with _connect(world, FAMILIAR_ADDRESS) as session:
        if secured:
            session.starttls(context=mail.any_certificate())
        session.sendmail(f"{canary}@example.net", _ALICE, mail.letter(canary, _STRANGER, _ALICE, canary))
    box = _mailbox(world)
    assert canary.encode() in mail.fetch(box, canary)
    box.logout()
    for watch in watches:
        packets = watch.packets()
        assert len(packets) > 10
        assert any(canary.encode() in packet for packet in packets) is not secured
        watch.close()
    assert home.failed_units() == []


def _app(world: Namespace, source: str) -> smtplib.SMTP_SSL:
    context = mail.any_certificate()
    return world.call(
        smtplib.SMTP_SSL, RELAY_ADDRESS, 465, "app.example", timeout=60, context=context, source_address=(source, 0)
    )


@pytest.mark.usefixtures("home")
def test_who_guesses_passwords_is_stopped_and_others_are_not(world: Namespace) -> None:
    """Home's limits are for the true client: those of the relay's address would shut everybody out."""
    for _ in range(4):
        with _app(world, SENDER_ADDRESS) as guesser:
            guesser.ehlo()
            for _ in range(8):  # Postfix slows a session down after ten mistakes
                answer = guesser.docmd("AUTH", "NONE")
    assert answer[0] == 450, answer
    with _app(world, FAMILIAR_ADDRESS) as session:
        session.login(_ALICE, PASSWORD)


# ---- Out


@pytest.fixture
def friend(world: Namespace, home: Machine) -> Iterator[Sink]:
    """A stand-in for the mail server of recipient.example, with an IPv4 and an IPv6 address."""
    know(
        home,
        'local-zone: "recipient.example." static',
        'local-data: "recipient.example. IN MX 10 mx.recipient.example."',
        'local-data: "mx.recipient.example. IN A 203.0.113.25"',
        'local-data: "mx.recipient.example. IN AAAA 2001:db8:1::25"',
        # Postfix wants to know whether they are signed, and unbound finds nobody to ask.
        'local-zone: "." typetransparent',
        'local-data: ". IN NS a.root.invalid."',
    )
    world.run("ip", "address", "replace", "203.0.113.25/24", "dev", "relay")
    sink = Sink(world.call(socket.create_server, ("203.0.113.25", 25)))
    sink.start()
    yield sink
    sink.listener.shutdown(socket.SHUT_RDWR)
    sink.listener.close()


def _send(home: Machine, subject: str) -> None:
    text = f"Subject: {subject}\n\nhello\n".encode()
    home.run("sendmail", "-f", _ALICE, "friend@recipient.example", stdin=text)


def test_mail_goes_out_from_the_relays_address(world: Namespace, home: Machine, relay: Relay, friend: Sink) -> None:
    direct, tunnel = Watch(world, "home"), Watch(relay.place, "home0")
    _send(home, "to the world")
    wait_for(lambda: len(friend.letters) == 1, "the letter")
    letter = friend.letters[0]
    assert (letter.client, letter.helo) == (RELAY_ADDRESS, "mx.example.com")
    assert direct.packets()
    assert direct.mail() == []
    # Every segment fits into the tunnel (RFC 9293 §3.7.1: 40 octets of headers).
    assert [size <= 1280 - 40 for size in _segment_sizes(tunnel)] == [True, True]
    for watch in (direct, tunnel):
        watch.close()


def _segment_sizes(watch: Watch) -> list[int]:
    """The maximum segment size that each SYN from or to port 25 offers (RFC 9293 §3.2)."""
    sizes = []
    for packet in watch.packets():
        if packet[0] >> 4 != 4 or packet[9] != socket.IPPROTO_TCP:
            continue
        segment = packet[(packet[0] & 15) * 4 :]
        options = segment[20 : (segment[12] >> 4) * 4]
        if 25 in (int.from_bytes(segment[:2]), int.from_bytes(segment[2:4])) and segment[13] & 2:
            at = options.index(b"\x02\x04")
            sizes.append(int.from_bytes(options[at + 2 : at + 4]))
    return sizes


def test_a_mail_server_that_is_taken_over_reaches_nothing_else_through_the_relay(
    world: Namespace, home: Machine, relay: Relay
) -> None:
    private = "10.20.30.40"
    relay.place.add_address("10.20.30.1")
    relay.place.run("ip", "route", "replace", private, "via", SENDER_ADDRESS)
    world.add_address(private)
    ports = (22, 25, 53, 80, 443, 8080)
    listeners = [
        world.call(socket.create_server, (address, port)) for address in (private, "203.0.113.9") for port in ports
    ]
    listeners += [relay.place.call(socket.create_server, (str(ADDRESSES.relay4), port)) for port in (80, 8080)]
    try:
        places = [(address, port) for address in (private, SENDER_ADDRESS, RELAY_ADDRESS) for port in ports]
        places += [(str(address), port) for address in (ADDRESSES.relay4, ADDRESSES.relay6) for port in ports]
        script = f"""\
import socket, struct
for address, port in {places!r}:
    try:
        s = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
        s.settimeout(1)
        s.setsockopt(socket.SOL_SOCKET, 25, b"relay0")  # SO_BINDTODEVICE (socket(7))
        s.connect((address, port))
        print(address, port)
    except OSError:
        pass
"""
        identity = ["setpriv", "--reuid=postfix", "--regid=postfix", "--clear-groups", "--inh-caps=-all"]
        found = home.run(*identity, "python3", "-c", script).split("\n")
        assert [line for line in found if line] == [f"{SENDER_ADDRESS} 25"]
    finally:
        for listener in listeners:
            listener.close()
        relay.place.run("ip", "route", "delete", private)


def test_only_so_much_mail_leaves_in_an_hour(home: Machine, relay: Relay, friend: Sink) -> None:
    """Whoever takes over home's mail server gets no further, and what home itself sends waits in its queue."""
    script = """\
import socket
made = 0
for _ in range(450):
    try:
        socket.create_connection(("203.0.113.25", 25), 3).close()
        made += 1
    except OSError as error:
        print(made, error)
        break
"""
    identity = ["setpriv", "--reuid=postfix", "--regid=postfix", "--clear-groups"]
    made, _, error = home.run(*identity, "python3", "-c", script).strip().partition(" ")
    assert 150 <= int(made) <= 220
    assert "No route to host" in error
    _send(home, "after too much")
    wait_for(lambda: "No route to host" in home.run("postqueue", "-p"), "the letter waits", 120)
    relay.reload_firewall()
    home.run("postqueue", "-f")
    wait_for(lambda: any("after too much" in letter.text for letter in friend.letters), "the letter")


# ---- Away and back


@contextlib.contextmanager
def _lost(place: Namespace, rule: str) -> Iterator[None]:
    """Let packets vanish on their way through the Internet."""
    table = f"table inet lost {{\nchain forward {{\ntype filter hook forward priority 0; {rule}\n}}\n}}\n"
    place.run("nft", "--file", "-", stdin=table)
    try:
        yield
    finally:
        place.run("nft", "delete", "table", "inet", "lost")


def _answer(world: Namespace) -> int:
    with _connect(world, FAMILIAR_ADDRESS) as session:
        session.ehlo()
        session.mail(_STRANGER)
        return session.rcpt(_ALICE)[0]


@pytest.mark.usefixtures("home")
def test_a_dead_tunnel_is_seen_at_once(world: Namespace, relay: Relay) -> None:
    assert _answer(world) == 250
    with _lost(world, "udp dport 51820 drop; udp sport 51820 drop"):
        # The first connection may find out; it is answered all the same.
        assert _answer(world) == 450
        wait_for(lambda: relay.home_is("DOWN"), "HAProxy")
        assert _answer(world) == 450
    wait_for(lambda: relay.home_is("UP"), "home again")
    assert _answer(world) == 250


@pytest.mark.usefixtures("home")
def test_a_path_that_swallows_large_packets_counts_as_away(world: Namespace, relay: Relay) -> None:
    with _lost(world, "udp sport 51820 meta length > 1000 drop; udp dport 51820 meta length > 1000 drop"):
        wait_for(lambda: relay.home_is("DOWN"), "HAProxy")
        assert _answer(world) == 450
    wait_for(lambda: relay.home_is("UP"), "home again")


@pytest.mark.usefixtures("home")
def test_a_path_as_narrow_as_those_of_most_homes_is_wide_enough(world: Namespace, relay: Relay) -> None:
    """1400 octets, less than PPPoE, DS-Lite and LTE have, and nobody says "packet too big"."""
    with _lost(world, "meta l4proto udp meta length > 1400 drop"):
        assert _answer(world) == 250
        with _connect(world, FAMILIAR_ADDRESS) as session:
            text = mail.letter(f"large {uuid.uuid4()}", _STRANGER, _ALICE, "a line of text\r\n" * 20_000)
            assert session.sendmail(_STRANGER, _ALICE, text) == {}
        assert relay.home_is("UP")


def test_home_says_when_it_cannot_take_mail(world: Namespace, home: Machine, relay: Relay) -> None:
    home.run("systemctl", "stop", "rspamd")
    try:
        wait_for(lambda: relay.home_is("DOWN"), "HAProxy")
        assert _answer(world) == 450
    finally:
        home.run("systemctl", "start", "rspamd")
    wait_for(lambda: relay.home_is("UP"), "home again")
    assert _answer(world) == 250


def test_home_may_get_another_address(world: Namespace, home: Machine, relay: Relay) -> None:
    home.run("ip", "address", "delete", f"{HOME_ADDRESS}/24", "dev", "wan0")
    home.run("ip", "address", "add", "198.51.100.77/24", "dev", "wan0")
    home.run("ip", "route", "replace", "default", "via", UPLINK_ADDRESS)
    wait_for(lambda: "198.51.100.77" in relay.place.run("wg", "show", "home0", "endpoints"), "the relay has followed")
    wait_for(lambda: relay.home_is("UP"), "home again")
    assert _answer(world) == 250


def test_the_relay_forgets_a_home_that_was_silent_for_five_minutes(
    world: Namespace, home: Machine, relay: Relay
) -> None:
    """With it goes the time of its last handshake, by which a home whose clock was set back is taken for a replay."""

    def handshake() -> str:
        return relay.place.run("wg", "show", "home0", "latest-handshakes").split()[1]

    before = handshake()
    relay.forget_silent_home(later=100)
    assert handshake() == before != "0"
    relay.forget_silent_home(later=400)
    assert handshake() == "0"
    # A home that was silent for so long has no session left.
    home.run("systemctl", "restart", "darkpipe-tunnel")
    wait_for(lambda: handshake() != "0", "a handshake")
    wait_for(lambda: relay.home_is("UP"), "home again")
    assert _answer(world) == 250
