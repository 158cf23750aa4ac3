"""HAProxy with more connections than it takes."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from pathlib import Path

from builder.relay_files import RelaySetting, relay_files
from model.tunnel import RelayEnd
from tests.machine.machine import wait_for
from tests.network.conftest import ADDRESSES, DOMAINS, RELAY_NAME
from tests.network.net import Namespace, namespace

_KEY = "A" * 43 + "="


def test_who_fills_port_25_does_not_keep_the_family_out(tmp_path: Path) -> None:
    setting = RelaySetting(RELAY_NAME, DOMAINS, RelayEnd(private_key=_KEY, home_key=_KEY, addresses=ADDRESSES))
    text = next(file.text for file in relay_files(setting) if file.path.name == "haproxy.cfg")
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
