"""A relay with more connections than it takes, in and out."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from pathlib import Path

import pytest

from model.tunnel import RelayEnd
from tests.machine.machine import wait_for
from tests.network.conftest import ADDRESSES, DOMAINS, RELAY_ADDRESS, RELAY_NAME, SENDER_ADDRESS
from tests.network.net import Namespace, join, namespace
from tests.relay_files import RelaySetting, relay_files

_KEY = "A" * 43 + "="


def _text_of(name: str) -> str:
    setting = RelaySetting(RELAY_NAME, DOMAINS, RelayEnd(private_key=_KEY, home_key=_KEY, addresses=ADDRESSES))
    return next(file.text for file in relay_files(setting) if file.path.name == name)


def test_a_server_that_does_not_answer_counts_once(tmp_path: Path) -> None:
    """Its connection is tried with one packet after another."""
    text = _text_of("nftables.conf")
    assert "200/hour burst 200" in text
    (tmp_path / "nftables.conf").write_text(text.replace("200/hour burst 200", "1/hour burst 2"))
    with namespace() as home, namespace() as relay, namespace() as world:
        join(home, relay, ("relay0", "home0"), (f"{ADDRESSES.home4}/24", f"{ADDRESSES.relay4}/24"))
        join(relay, world, ("eth0", "relay"), (f"{RELAY_ADDRESS}/24", f"{SENDER_ADDRESS}/24"))
        home.run("ip", "route", "add", "default", "via", str(ADDRESSES.relay4))
        relay.run("sysctl", "--quiet", "--write", "net.ipv4.ip_forward=1")
        relay.run("nft", "--file", str(tmp_path / "nftables.conf"))
        dead = "203.0.113.99"
        world.add_address(dead)
        world.run("nft", f"table ip t {{ chain c {{ type filter hook input priority 0; ip daddr {dead} drop; }}; }}")
        with world.call(socket.create_server, (SENDER_ADDRESS, 25)):
            with pytest.raises(TimeoutError):
                home.call(socket.create_connection, (dead, 25), 5)
            home.call(socket.create_connection, (SENDER_ADDRESS, 25), 5).close()
            with pytest.raises(OSError, match="No route to host"):
                home.call(socket.create_connection, (SENDER_ADDRESS, 25), 5)


def test_who_fills_port_25_does_not_keep_the_family_out(tmp_path: Path) -> None:
    text = _text_of("haproxy.cfg")
    assert "maxconn 800" in text
    # Some are quicker made than 800.
    text = text.replace("maxconn 800", "maxconn 8").replace("ge 600", "ge 6").replace(f"[{ADDRESSES.home6}]", "[::1]")
    (tmp_path / "haproxy.cfg").write_text(text)
    with namespace() as place, ExitStack() as stack:
        # Nobody says that home is up; HAProxy believes so until three questions have had no answer.
        *_, apps = [
            stack.enter_context(place.call(socket.create_server, ("::1", port), family=socket.AF_INET6))
            for port in (2500, 2525, 2587)
        ]
        stack.enter_context(place.running("haproxy", "-db", "-f", str(tmp_path / "haproxy.cfg")))
        wait_for(lambda: place.can_connect(25, "127.0.0.1"), "HAProxy")
        assert 5 <= sum(_is_taken(stack, place) for _ in range(12)) <= 6
        stack.enter_context(place.call(socket.create_connection, ("127.0.0.1", 587), 5))
        apps.settimeout(5)
        stack.enter_context(apps.accept()[0])


def _is_taken(stack: ExitStack, place: Namespace) -> bool:
    """Open one more connection to port 25."""
    try:
        made = stack.enter_context(place.call(socket.create_connection, ("127.0.0.1", 25), 0.3))
        return made.recv(1) != b""
    except TimeoutError:  # nobody greets
        return True
    except ConnectionResetError:
        return False
