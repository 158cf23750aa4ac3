"""The tunnel over TCP, between the real OpenVPNs: what is above it is the same, and nobody but the two gets in."""

from __future__ import annotations

import json
import smtplib
import socket
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial

import pytest

from bootstrap.ends import make_bootstrap
from home.openvpn_link import openvpn_settings
from home.openvpn_reasons import reason
from home.tunnel_link import TABLE
from model.mtls import MtlsHome, MtlsRelay
from model.site import Relay as SiteRelay
from model.site import Transport
from tests import mail
from tests.machine.conftest import PASSWORD
from tests.machine.machine import Machine, wait_for
from tests.machine.relay import Sink, Watch
from tests.network.conftest import FAMILIAR_ADDRESS, HOME_ADDRESS, RELAY_ADDRESS, UPLINK_ADDRESS, MtlsEnds, know
from tests.network.net import Namespace, join, namespace
from tests.network.relay import Relay

_ALICE = "alice@example.com"
_STRANGER = "stranger@example.net"
_STRANGERS_ADDRESS, _STRANGERS_PEER = "203.0.114.9", "203.0.114.1"


@pytest.fixture(scope="module")
def ends() -> MtlsEnds:
    """Keys as the builder makes them; all other fixtures take these."""
    made = make_bootstrap(SiteRelay(address=RELAY_ADDRESS, transport=Transport.MTLS))
    assert isinstance(made.home, MtlsHome)
    assert isinstance(made.relay, MtlsRelay)
    return MtlsEnds(made.home, made.relay)


@contextmanager
def _lost(place: Namespace, rule: str) -> Iterator[None]:
    """Let packets vanish on their way through the Internet."""
    table = f"table inet lost {{\nchain forward {{\ntype filter hook forward priority 0; {rule}\n}}\n}}\n"
    place.run("nft", "--file", "-", stdin=table)
    try:
        yield
    finally:
        place.run("nft", "delete", "table", "inet", "lost")


def _dial(relay: Relay, home: MtlsHome, change: tuple[str, str] = ("", "")) -> str:
    """Let an OpenVPN in the world call the relay for some seconds, and give what it has logged."""
    lines = openvpn_settings(home, RELAY_ADDRESS).splitlines(keepends=True)
    settings = "".join(line for line in lines if not line.startswith("management"))
    settings = settings.replace("verb 1\n", "verb 3\n").replace(*change)
    with namespace() as stranger:
        networks = (f"{_STRANGERS_ADDRESS}/24", f"{_STRANGERS_PEER}/24")
        join(stranger, relay.place, ("eth0", "stranger"), networks)
        stranger.run("ip", "route", "add", "default", "via", _STRANGERS_PEER)
        stranger.run("ip", "tuntap", "add", "dev", "relay0", "mode", "tun")
        return stranger.run("timeout", "5", "openvpn", "--config", "stdin", stdin=settings, check=False)


_UP = "Initialization Sequence Completed"


def test_who_has_homes_keys_gets_in(relay: Relay, ends: MtlsEnds) -> None:
    """The control of the next test."""
    log = _dial(relay, ends.home)
    assert _UP in log
    assert "Control Channel: TLSv1.3" in log


@pytest.mark.parametrize("strange", ["keys", "shield", "pin", "purpose", "port 443"])
def test_nobody_else_gets_in(relay: Relay, ends: MtlsEnds, strange: str) -> None:
    home = ends.home
    other = make_bootstrap(SiteRelay(address=RELAY_ADDRESS, transport=Transport.MTLS))
    assert isinstance(other.home, MtlsHome)
    own = {"private_key": other.home.private_key, "certificate": other.home.certificate}
    match strange:
        case "keys":
            log = _dial(relay, home.model_copy(update=own))
        case "shield":
            log = _dial(relay, home.model_copy(update={"shield": other.home.shield}))
        case "pin":
            log = _dial(relay, home.model_copy(update={"other": other.home.other}))
        case "purpose":
            log = _dial(relay, home, ("remote-cert-tls server", "remote-cert-tls client"))
        case _:
            log = _dial(relay, home.model_copy(update={**own, "port": 443}))
    assert "TCP connection established" in log
    assert _UP not in log
    # What home tells its people of it.
    said = {"pin": "another certificate", "purpose": "another certificate"}
    assert said.get(strange, "made from other or older user-data") in (reason(log.splitlines(), RELAY_ADDRESS) or log)


def _held(connections: Iterable[socket.socket]) -> int:
    """Count the connections that the other side has not ended."""
    count = 0
    for one in connections:
        one.setblocking(False)
        try:
            one.recv(1)
        except BlockingIOError:
            count += 1
        except OSError:
            pass
    return count


def test_a_stranger_who_holds_connections_open_does_not_keep_home_out(
    world: Namespace, relay: Relay, ends: MtlsEnds
) -> None:
    """Each of them is a client of OpenVPN for a minute, whatever it says."""
    with ExitStack() as open_until_then:
        for port, said in ((1194, b""), (443, b"\x00\x36\x38")):
            made: list[socket.socket] = []
            for _ in range(22):
                with suppress(OSError):
                    made.append(world.call(socket.create_connection, (RELAY_ADDRESS, port), 0.5))
                    open_until_then.enter_context(made[-1]).sendall(said)
            wait_for(partial(lambda made: 0 < _held(made) < 20, made), f"the relay has had enough on port {port}", 5)
        assert _UP in _dial(relay, ends.home)


def _letter(world: Namespace, subject: str, body: str = "hello") -> None:
    with world.call(smtplib.SMTP, RELAY_ADDRESS, 25, "sender.example.net", 60, (FAMILIAR_ADDRESS, 0)) as session:
        session.starttls(context=mail.any_certificate())
        session.sendmail(_STRANGER, _ALICE, mail.letter(subject, _STRANGER, _ALICE, body))


def _tunnel(home: Machine) -> dict[str, object]:
    return dict(json.loads(home.run("darkpipe", "status", "--json", check=False))["tunnel"])


def test_mail_comes_in_and_home_knows_who_sent_it(world: Namespace, home: Machine) -> None:
    subject = f"test {uuid.uuid4()}"
    _letter(world, subject)
    box = world.call(mail.mailbox, 993, _ALICE, PASSWORD, host=RELAY_ADDRESS)
    assert f"Received: from sender.example.net (unknown [{FAMILIAR_ADDRESS}])".encode() in mail.fetch(box, subject)
    box.logout()
    assert home.failed_units() == []


def test_mail_goes_out_from_the_relays_address(world: Namespace, home: Machine) -> None:
    know(
        home,
        'local-zone: "recipient.example." static',
        'local-data: "recipient.example. IN MX 10 mx.recipient.example."',
        'local-data: "mx.recipient.example. IN A 203.0.113.25"',
        'local-zone: "." typetransparent',
        'local-data: ". IN NS a.root.invalid."',
    )
    world.run("ip", "address", "replace", "203.0.113.25/24", "dev", "relay")
    friend = Sink(world.call(socket.create_server, ("203.0.113.25", 25)))
    friend.start()
    direct = Watch(world, "home")
    home.run("sendmail", "-f", _ALICE, "friend@recipient.example", stdin=b"Subject: to the world\n\nhello\n")
    wait_for(lambda: len(friend.letters) == 1, "the letter")
    assert (friend.letters[0].client, friend.letters[0].helo) == (RELAY_ADDRESS, "mx.example.com")
    assert direct.packets()
    assert direct.mail() == []
    direct.close()
    friend.listener.shutdown(socket.SHUT_RDWR)
    friend.listener.close()


def test_a_network_that_lets_only_the_webs_port_out_is_enough(world: Namespace, home: Machine, relay: Relay) -> None:
    with _lost(world, "tcp dport 1194 drop; meta l4proto udp drop"):
        home.run("systemctl", "restart", "darkpipe-tunnel")
        wait_for(lambda: _tunnel(home)["up"] is True, "home by another way", 60)
        assert _tunnel(home)["endpoint"] == f"{RELAY_ADDRESS}:443"
        wait_for(lambda: relay.home_is("UP"), "the relay has seen it")
        _letter(world, "by 443")


def _restart(home: Machine, relay: Relay) -> None:
    home.run("systemctl", "stop", "darkpipe-tunnel")
    wait_for(lambda: relay.home_is("DOWN"), "the relay takes home for away")
    home.run("systemctl", "start", "darkpipe-tunnel")


def test_a_path_as_narrow_as_those_of_most_homes_is_wide_enough(world: Namespace, home: Machine, relay: Relay) -> None:
    """1340 octets, less than PPPoE, DS-Lite and LTE have, and nobody says "packet too big"."""
    # Otherwise the kernel joins segments that never go over a real cable.
    for run, name in ((relay.place.run, "eth0"), (home.run, "wan0")):
        run("ip", "link", "set", "dev", name, "gso_max_segs", "1")
    with _lost(
        world, "tcp dport { 443, 1194 } meta length > 1340 drop; tcp sport { 443, 1194 } meta length > 1340 drop"
    ):
        _restart(home, relay)
        wait_for(lambda: relay.home_is("UP"), "home again", 60)
        _letter(world, f"large {uuid.uuid4()}", "a line of text\r\n" * 20_000)
        assert relay.home_is("UP")
        # The control: without what the firewall does to OpenVPN's segments.
        for chain in ("from_home", "to_home"):
            relay.place.run("nft", "flush", "chain", "inet", "darkpipe", chain)
        _restart(home, relay)
        wait_for(lambda: _tunnel(home)["up"] is True, "small packets", 60)
        time.sleep(5)
        assert relay.home_is("DOWN")
    relay.reload_firewall()
    _restart(home, relay)
    wait_for(lambda: relay.home_is("UP"), "home again", 60)


def _kill_openvpn(home: Machine, _relay: Relay) -> None:
    home.run("pkill", "-KILL", "--exact", "openvpn")


def _take_interface(home: Machine, _relay: Relay) -> None:
    home.run("ip", "link", "delete", "relay0")


def _cut(home: Machine, relay: Relay) -> None:
    """Nothing says that the connection is gone."""
    relay.place.run("nft", "insert", "rule", "inet", "darkpipe", "input", "tcp", "dport", "{ 443, 1194 }", "drop")
    relay.place.run("nft", "insert", "rule", "inet", "darkpipe", "output", "tcp", "sport", "{ 443, 1194 }", "drop")
    wait_for(lambda: relay.home_is("DOWN"), "the relay takes home for away")
    wait_for(lambda: not _tunnel(home)["up"], "home has seen it", 90)
    # OpenVPN gives the connection up some seconds before home does, and its first dial may still be under way.
    wait_for(lambda: "does not answer" in str(_tunnel(home)["error"]), "the reason", 15)
    relay.reload_firewall()


@pytest.mark.parametrize("way", [_kill_openvpn, _take_interface, _cut])
def test_a_tunnel_that_was_lost_comes_back(
    world: Namespace, home: Machine, relay: Relay, way: Callable[[Machine, Relay], None]
) -> None:
    begun = time.monotonic()
    way(home, relay)
    lost = time.monotonic()
    wait_for(lambda: relay.home_is("DOWN") or time.monotonic() > lost + 5, "the relay has seen it")
    wait_for(lambda: relay.home_is("UP"), "home again", 90)
    print(f"{way.__name__}: {lost - begun:.1f} s until it was seen, back after {time.monotonic() - lost:.1f} s")
    _letter(world, f"after {way.__name__}")
    assert home.failed_units() == []


def _callers(relay: Relay) -> str:
    return relay.place.run("ss", "--tcp", "--numeric", "--no-header", "state", "established", "sport", "=", ":1194")


def test_home_may_get_another_address_in_the_middle_of_a_letter(world: Namespace, home: Machine, relay: Relay) -> None:
    """TCP does not move: home dials anew. The letter's own connection goes through the tunnel, and lives on."""
    subject, other = f"test {uuid.uuid4()}", "198.51.100.77"
    first, second = mail.letter(subject, _STRANGER, _ALICE, "first half\r\n" * 500), "second half\r\n" * 500
    assert HOME_ADDRESS in _callers(relay)
    with world.call(smtplib.SMTP, RELAY_ADDRESS, 25, "sender.example.net", 90, (FAMILIAR_ADDRESS, 0)) as session:
        session.starttls(context=mail.any_certificate())
        session.ehlo()
        assert session.mail(_STRANGER)[0] == session.rcpt(_ALICE)[0] == 250
        assert session.docmd("DATA")[0] == 354
        session.send(first)
        begun = time.monotonic()
        home.run("ip", "address", "delete", f"{HOME_ADDRESS}/24", "dev", "wan0")
        home.run("ip", "address", "add", f"{other}/24", "dev", "wan0")
        home.run("ip", "route", "replace", "default", "via", UPLINK_ADDRESS)
        wait_for(lambda: other in _callers(relay), "home dials from its new address", 60)
        print(f"home dialled anew after {time.monotonic() - begun:.1f} s")
        session.send(f"{second}\r\n.\r\n")
        assert session.getreply()[0] == 250
    wait_for(lambda: relay.home_is("UP"), "home again", 60)
    box = world.call(mail.mailbox, 993, _ALICE, PASSWORD, host=RELAY_ADDRESS)
    received = mail.fetch(box, subject)
    box.logout()
    assert received.count(b"first half") == received.count(b"second half") == 500


def test_without_the_tunnel_mail_finds_no_other_way(home: Machine) -> None:
    home.run("systemctl", "stop", "darkpipe-tunnel")
    try:
        assert "unreachable default" in home.run("ip", "route", "show", "table", str(TABLE))
        assert "relay0" not in home.run("ip", "route", "show", "table", str(TABLE))
    finally:
        home.run("systemctl", "start", "darkpipe-tunnel")
