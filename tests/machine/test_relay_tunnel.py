"""Home's end of the tunnel against a real WireGuard: how it comes up and heals, what leaves by it, what comes in."""

from __future__ import annotations

import json
import re
import socket
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.machine.conftest import SEED
from tests.machine.machine import HOME_ADDRESS, HOME_ADDRESS_6, Client, Machine, wait_for
from tests.machine.relay import ADDRESSES, OUTSIDE, RELAY, WAN, WORLD, WORLD_6, Relay, Watch, put_home_end, relay_behind

HOME4, HOME6 = str(ADDRESSES.home4), str(ADDRESSES.home6)
RELAY4, RELAY6 = str(ADDRESSES.relay4), str(ADDRESSES.relay6)
FRIEND = "friend@recipient.example"
_UNBOUND = "/data/darkpipe/config/current/unbound/unbound.conf"
_TUNNEL_PORTS = {2465, 2500, 2525, 2587, 2993}

_NAMES = f"""
server:
    local-zone: "recipient.example." static
    local-data: "recipient.example. IN MX 10 mx.recipient.example."
    local-data: "mx.recipient.example. IN A {WORLD}"
    local-data: "mx.recipient.example. IN AAAA {WORLD_6}"
    local-zone: "relay.example." static
    # Nobody is there whom unbound could ask for them, and Postfix wants to know whether they are signed.
    local-zone: "." typetransparent
    local-data: ". IN NS a.root.invalid."
"""


def _know(machine: Machine, relay: str | None) -> None:
    """Let unbound know the recipient, and the relay at an address."""
    found = machine.run("cat", _UNBOUND).partition("\nserver:\n    local-zone")[0]
    line = f'    local-data: "relay.example. 0 IN A {relay}"\n' if relay else ""
    machine.run("tee", _UNBOUND, stdin=(found + _NAMES + line).encode())
    machine.run("systemctl", "restart", "unbound")


@pytest.fixture(scope="module")
def home(new_machine: Callable[[str], Machine]) -> Iterator[Machine]:
    """A device with a Site that has a relay, and no half of its keys yet."""
    machine = new_machine(f"{SEED}relays: [{{address: relay.example, offline: tempfail}}]\n").start()
    yield machine
    machine.stop()


@pytest.fixture(scope="module")
def internet(home: Machine) -> Iterator[Client]:
    """The device's way to the Internet without a tunnel: it leads to every address, and a mail server listens there."""
    with home.lan() as internet:
        for family, address in (("-4", "192.168.55.2"), ("-6", "fd55::2")):
            home.run("ip", family, "route", "add", "default", "via", address)
        for address in (WORLD, WORLD_6):
            internet.add_address(address)
        listeners = [
            internet.call(socket.create_server, (WORLD, 25)),
            internet.call(socket.create_server, ("::", 25), family=socket.AF_INET6),
        ]
        yield internet
        for listener in listeners:
            listener.close()


@pytest.fixture(scope="module")
def relay(home: Machine, internet: Client) -> Iterator[Relay]:
    """A relay whose tunnel home has made, at first without an answer of the DNS."""
    assert internet.pid
    # Debian's udev lets everybody open it; a container has no udev. The kernel asks for CAP_NET_ADMIN all the same.
    home.run("chmod", "0666", "/dev/net/tun")
    with relay_behind(home) as relay:
        _know(home, None)
        put_home_end(home, relay.home_end("relay.example"))
        wait_for(lambda: _state(home).get("error") == "no address of relay.example is known", "a tunnel to nowhere")
        assert not _state(home)["up"]
        _know(home, RELAY)
        _wait_until_up(home)
        yield relay


def _status(home: Machine) -> Any:
    return json.loads(home.run("darkpipe", "status", "--json", check=False))


def _state(home: Machine) -> Any:
    text = home.run("cat", "/run/darkpipe-tunnel/state.json", check=False)
    # The file goes, and comes, with the service.
    return json.loads(text) if text.startswith("{") else {"up": False}


def _wait_until_up(home: Machine, patience: float = 60.0) -> None:
    deadline = time.monotonic() + patience
    while not _state(home)["up"]:
        assert time.monotonic() < deadline, _state(home)
        time.sleep(0.5)


def _connect(home: Machine, user: str, address: str, port: int) -> str:
    """Try to connect as a user; gives what Python says, nothing when there is a connection."""
    script = f"import socket; socket.create_connection(('{address}', {port}), 3)"
    identity = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"]
    told = home.run(*identity, "python3", "-c", script, check=False).strip()
    return told.splitlines()[-1] if told else ""


def _send(home: Machine, subject: str) -> None:
    home.run("sendmail", "-f", "alice@example.com", FRIEND, stdin=f"Subject: {subject}\n\nhello\n".encode())


@pytest.mark.usefixtures("relay")
def test_the_tunnel_comes_up_when_the_file_appears_and_the_name_is_known(home: Machine) -> None:
    found = _status(home)["tunnel"]
    assert (found["relay"], found["up"], found["endpoint"]) == ("relay.example", True, f"{RELAY}:51820")
    assert 0 <= found["handshake_seconds"] <= 135
    assert re.search(r"^tunnel +up for \S+, to relay\.example at ", home.run("darkpipe", "status"), re.MULTILINE)
    shown = home.run("ip", "address", "show", "dev", "relay0")
    assert "mtu 1280" in shown
    # No address but these, not even a link-local one.
    assert set(re.findall(r"inet6? (\S+)", shown)) == {f"{HOME4}/32", f"{HOME6}/128"}


def test_the_key_is_in_no_log_and_in_no_file_for_others(home: Machine, relay: Relay) -> None:
    key = relay.home_end("relay.example").private_key
    assert key in home.run("wg", "show", "relay0", "private-key")
    assert key not in home.run("journalctl", "--no-pager", "--output=export")
    assert key not in home.run("sh", "-c", "cat /proc/[0-9]*/cmdline /run/darkpipe-tunnel/* 2>/dev/null", check=False)
    assert stat.S_IMODE((home.data / "darkpipe/relay.json").stat().st_mode) == 0o600


def test_mail_goes_out_through_the_tunnel_and_no_other_way(home: Machine, internet: Client, relay: Relay) -> None:
    watches = [Watch(internet, "lan0"), Watch(relay.client, "wan0")]
    _send(home, "to the world")
    wait_for(lambda: any("to the world" in letter.text for letter in relay.sink.letters), "mail in the world")
    letter = relay.sink.letters[-1]
    assert (letter.client, letter.helo) == (OUTSIDE, "mx.example.com")
    assert (letter.sender, letter.recipient) == ("alice@example.com", FRIEND)
    # By the cable that leads to the relay, and there with nothing to be read.
    assert len([packet for packet in watches[1].packets() if packet[9] == socket.IPPROTO_UDP]) > 10
    for watch in watches:
        assert not [packet for packet in watch.packets() if b"recipient.example>" in packet]
        assert watch.mail() == []
        watch.close()


def test_what_is_forwarded_goes_the_same_way(home: Machine, relay: Relay) -> None:
    home.run("darkpipe", "alias", "add", "list@example.com", FRIEND)
    _know(home, RELAY)  # the new configuration has a new file
    home.run("sendmail", "-f", "stranger@example.net", "list@example.com", stdin=b"Subject: forwarded\n\nhello\n")
    wait_for(lambda: any("Subject: forwarded" in letter.text for letter in relay.sink.letters), "forwarded mail")
    letter = next(letter for letter in relay.sink.letters if "Subject: forwarded" in letter.text)
    assert re.fullmatch(r"SRS0=.*=example\.net=stranger@mx\.example\.com", letter.sender)
    assert letter.client == OUTSIDE


def test_what_a_users_script_redirects_goes_the_same_way(home: Machine, relay: Relay) -> None:
    user = "alice@example.com"
    home.run("doveadm", "sieve", "put", "-u", user, "-a", "away", stdin=f'redirect "{FRIEND}";'.encode())
    try:
        home.run("sendmail", "-f", "stranger@example.net", user, stdin=b"Subject: redirected\n\nhello\n")
        wait_for(lambda: any("Subject: redirected" in letter.text for letter in relay.sink.letters), "redirected mail")
    finally:
        home.run("doveadm", "sieve", "delete", "-u", user, "-a", "away")
    letter = next(letter for letter in relay.sink.letters if "Subject: redirected" in letter.text)
    assert letter.client == OUTSIDE


def _nowhere(home: Machine) -> None:
    """Try, in each way that there is, to get to the mail server in the world."""
    for address in (WORLD, WORLD_6):
        for user in ("postfix", "root"):
            assert _connect(home, user, address, 25) != ""


def _lose_interface(home: Machine, _relay: Relay) -> None:
    home.run("systemctl", "stop", "darkpipe-tunnel")


def _lose_routing(home: Machine, _relay: Relay) -> None:
    home.run("ip", "route", "flush", "table", "51820")
    home.run("ip", "rule", "delete", "priority", "2500")


def _lose_relay(_home: Machine, relay: Relay) -> None:
    relay.stop()


@pytest.mark.parametrize("lose", [_lose_interface, _lose_routing, _lose_relay])
def test_without_the_tunnel_nothing_leaves_another_way(
    home: Machine, internet: Client, relay: Relay, lose: Callable[[Machine, Relay], None]
) -> None:
    watches = [Watch(internet, "lan0"), Watch(relay.client, "wan0")]
    lose(home, relay)
    try:
        _send(home, f"after {lose.__name__}")
        _nowhere(home)
        for watch in watches:
            assert watch.mail() == []
            watch.close()
    finally:
        if lose is _lose_relay:
            relay.start()
        home.run("systemctl", "restart", "darkpipe-tunnel")
        _wait_until_up(home)
    home.run("postqueue", "-f")
    text = f"Subject: after {lose.__name__}"
    wait_for(lambda: any(text in letter.text for letter in relay.sink.letters), "the mail that has waited")


def test_a_watch_sees_what_leaves_and_the_routes_hold_without_a_firewall(home: Machine, internet: Client) -> None:
    """The control of the tests above, and each guard by itself."""
    home.run("systemctl", "stop", "darkpipe-tunnel")
    home.run("nft", "flush", "ruleset")
    try:
        watch = Watch(internet, "lan0")
        assert "No route to host" in _connect(home, "postfix", WORLD, 25)
        assert "No route to host" in _connect(home, "postfix", WORLD_6, 25)
        assert watch.mail() == []
        assert [_connect(home, "root", address, 25) for address in (WORLD, WORLD_6)] == ["", ""]
        assert {WORLD, WORLD_6} == set(watch.mail())
        watch.close()
    finally:
        home.run("systemctl", "reload", "darkpipe-firewall")
        home.run("systemctl", "start", "darkpipe-tunnel")
        _wait_until_up(home)


@pytest.mark.usefixtures("relay")
def test_wireguard_go_is_started_again(home: Machine) -> None:
    pid = home.run("pgrep", "--exact", "wireguard-go").strip()
    home.run("kill", "-KILL", pid)
    wait_for(lambda: home.run("pgrep", "--exact", "wireguard-go", check=False).strip() not in {"", pid}, "another one")
    _wait_until_up(home)


# ---- What comes in


def _ask(relay: Relay, question: bytes, address: str = HOME6) -> bytes:
    with relay.client.call(socket.create_connection, (address, 2500), 5) as connection:
        connection.sendall(question)
        return b"".join(iter(lambda: connection.recv(8192), b""))


@pytest.mark.parametrize("address", [HOME4, HOME6])
def test_home_says_that_it_takes_mail(home: Machine, relay: Relay, address: str) -> None:
    wait_for(lambda: _ask(relay, b"?\n", address) == b"up\n", home.run("cat", "/run/darkpipe-verdict/word"))
    long = _ask(relay, b"x" * 4095 + b"\n", address)
    assert (len(long), long.strip()) == (4096, b"up")


def test_home_says_at_once_that_it_takes_none(home: Machine, relay: Relay) -> None:
    home.run("systemctl", "stop", "dovecot")
    try:
        begun = time.monotonic()
        while _ask(relay, b"?\n") == b"up\n":
            assert time.monotonic() - begun < 3
            time.sleep(0.05)
        assert _ask(relay, b"?\n") == b"down#dovecot does not run\n"
    finally:
        home.run("systemctl", "start", "dovecot")
    wait_for(lambda: _ask(relay, b"?\n") == b"up\n", "up again")


def test_home_says_goodbye_before_it_goes(home: Machine, relay: Relay) -> None:
    assert _ask(relay, b"?\n") == b"up\n"
    home.run("systemctl", "stop", "--no-block", "darkpipe-ready")
    try:
        wait_for(lambda: _ask(relay, b"?\n") == b"down#stopping\n", "goodbye")
    finally:
        home.run("systemctl", "stop", "darkpipe-ready")
        home.run("systemctl", "start", "darkpipe-ready")
    wait_for(lambda: relay.client.can_connect(2500, HOME6), "the service again")
    order = home.run("systemctl", "show", "--property=After", "--value", "darkpipe-ready").split()
    assert "postfix.service" in order


def test_whoever_is_slow_or_many_is_hung_up_on(relay: Relay) -> None:
    held = [relay.client.call(socket.create_connection, (HOME6, 2500), 5) for _ in range(200)]
    begun = time.monotonic()
    held[0].sendall(b"x" * 100)
    assert held[0].recv(100) == b""
    assert time.monotonic() - begun < 4
    for connection in held:
        connection.close()
    wait_for(lambda: _ask(relay, b"?\n") == b"up\n", "an answer")


def test_the_relay_reaches_the_ports_for_it_and_no_other(relay: Relay) -> None:
    plain = {22, 25, 53, 143, 465, 587, 993, 4190, 10001, 10002, 10026, 10027}
    places = [(address, port) for address in (HOME4, HOME6) for port in sorted(plain | _TUNNEL_PORTS)]
    found = relay.client.reachable_at(places)
    assert found == {(address, port) for address, port in places if port in _TUNNEL_PORTS}


def test_the_relay_reaches_neither_the_lan_nor_the_device_there(internet: Client, relay: Relay) -> None:
    """Somebody who has taken the relay over sends what they like into the tunnel."""
    addresses = (HOME_ADDRESS, HOME_ADDRESS_6, "192.168.55.2", "fd55::2")
    watch, listener = Watch(internet, "lan0"), internet.call(socket.create_server, ("192.168.55.2", 8080))
    for address in addresses:
        relay.ip("route", "replace", address, "dev", relay.interface)
    try:
        ports = sorted({25, 993, 8080, *_TUNNEL_PORTS})
        assert relay.client.reachable_at((address, port) for address in addresses for port in ports) == set()
        assert not [packet for packet in watch.packets() if ADDRESSES.relay4.packed in packet[12:16]]
    finally:
        for address in addresses:
            relay.ip("route", "delete", address, "dev", relay.interface)
        listener.close()
        watch.close()


@pytest.mark.parametrize(("source", "to"), [("203.0.113.50", HOME4), ("fd66::50", HOME6)])
def test_whoever_is_behind_the_relay_does_not_reach_home(relay: Relay, source: str, to: str) -> None:
    assert relay.client.can_connect(2525, to)
    relay.client.add_address(source)
    with pytest.raises(TimeoutError):
        relay.client.call(socket.create_connection, (to, 2525), 2, (source, 0))


def test_the_relay_is_no_router(home: Machine, relay: Relay) -> None:
    script = f"""\
import socket, struct
advert = struct.pack("!BBHBBHII", 134, 0, 0, 255, 0, 9000, 0, 0)
advert += struct.pack("!BBBBIII", 3, 4, 64, 0xC0, 9000, 9000, 0)
advert += socket.inet_pton(socket.AF_INET6, "fd77::")
s = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, 255)
s.bind(("fe80::9", 0, 0, socket.if_nametoindex("{relay.interface}")))
s.sendto(advert, ("{HOME6}", 0))
"""
    relay.ip("address", "add", "fe80::9/64", "dev", relay.interface, "nodad")
    relay.client.call(subprocess.run, ["python3", "-c", script], check=True)
    # What was sent after it has arrived.
    assert relay.client.can_connect(2525, HOME6)
    assert "fd77:" not in home.run("ip", "-6", "route", "show", "table", "all")
    assert "relay0" not in home.run("ip", "-6", "route", "show", "default")


def test_nobody_asks_the_relay_for_anything(home: Machine, relay: Relay) -> None:
    listeners = [relay.client.call(socket.create_server, (RELAY4, port)) for port in (25, 8080)]
    listeners += [
        relay.client.call(socket.create_server, (RELAY6, port), family=socket.AF_INET6) for port in (25, 8080)
    ]
    try:
        for user in ("postfix", "root", "unbound"):
            for address in (RELAY4, RELAY6):
                assert "Error" in _connect(home, user, address, 8080), (user, address)
                allowed = (user, address) == ("postfix", RELAY4)
                assert (_connect(home, user, address, 25) == "") is allowed, (user, address)
    finally:
        for listener in listeners:
            listener.close()
    assert WAN in home.run("ip", "address", "show", "dev", "wan0")


def test_of_homes_users_only_those_with_a_key_reach_the_relays_agent_and_queue(home: Machine, relay: Relay) -> None:
    """Who takes over the mail server, which is in the tunnel, does not even get to be refused."""
    ports = (2600, 2601)
    listeners = [relay.client.call(socket.create_server, (RELAY6, port), family=socket.AF_INET6) for port in ports]
    try:
        users = ("postfix", "_rspamd", "darkpipe-drain", "root")
        reached = {user: [port for port in ports if _connect(home, user, RELAY6, port) == ""] for user in users}
    finally:
        for listener in listeners:
            listener.close()
    assert {user: found for user, found in reached.items() if found} == {"darkpipe-drain": [2600], "root": [2601]}


@pytest.mark.usefixtures("relay")
def test_without_the_file_the_tunnel_goes(home: Machine) -> None:
    (home.data / "darkpipe/relay.json").unlink()
    wait_for(lambda: "relay0" not in home.run("ip", "link"), "no tunnel")
    wait_for(lambda: _status(home)["tunnel"] is None, "nothing to tell")
    assert home.failed_units() == []
    assert "lookup 51820" in home.run("ip", "rule")
