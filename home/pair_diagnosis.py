"""Why the tunnel to the relay is down, as far as home can see."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_address

from home.tunnel_state import Tunnel
from model.mtls import PORT
from model.wireguard import LISTEN_PORT

_SECONDS = 3.0

_PORTS = (443, 993)
"""Of TCP, that each relay listens on. Port 25 is shut for all but the mail server."""


_BLOCKED = (
    f"Either a network on the way blocks UDP port {LISTEN_PORT}, for which there is `transport: mtls` (it takes "
    "a new relay from new user-data, and `darkpipe relay replace` here)"
)

_SILENT = {
    True: f"{_BLOCKED}, or the relay has other keys: it was built anew from other user-data, or put back to an old "
    "snapshot, or it serves another device that was restored from a backup of this one",
    False: f"{_BLOCKED}, or the relay was made from other or older user-data than this device, or it belongs to "
    "another home already",
}
"""By whether home is paired."""


@dataclass(frozen=True)
class Around:
    """What home sees.

    Args:
        relay: its name or address; empty when no relay is known.
        addresses: of the relay, none when its name does not resolve.
        ipv4, ipv6: whether home has a way to the Internet by it.
        answers: whether the relay takes connections over TCP.
        paired: whether home is paired.
        error: what darkpipe-tunnel says.
        mtls: whether the tunnel is OpenVPN's, which says itself what is wrong.
    """

    relay: str
    addresses: tuple[str, ...] = ()
    ipv4: bool = True
    ipv6: bool = True
    answers: bool = False
    paired: bool = False
    error: str = ""
    mtls: bool = False


def diagnose(around: Around) -> str:
    """Say what is likely wrong, and what to do; empty when nothing can be said."""
    relay = around.relay
    if not relay:
        return around.error
    if not around.ipv4 and not around.ipv6:
        return "home has no way to the Internet; the relay keeps the mail as long as its settings allow"
    if not around.addresses:
        return f"{relay} has no address in the DNS: set its A and AAAA records to the relay's addresses"
    families = {ip_address(address).version for address in around.addresses}
    for ours, theirs, way in ((6, 4, around.ipv6), (4, 6, around.ipv4)):
        if families == {ours} and not way:
            return (
                f"{relay} has IPv{ours} addresses only, and home has no IPv{ours}: give the relay an IPv{theirs} "
                f"address at its provider, or ask the provider of this home's line for IPv{ours}"
            )
    if not around.answers:
        return f"{relay} does not answer at all: see at its provider whether it runs, and whether the address is right"
    return _silent(around)


def _silent(around: Around) -> str:
    answers = f"{around.relay} answers over TCP"
    if around.mtls:
        return around.error or f"{answers}, and its OpenVPN is silent: a network on the way may block it"
    return f"{answers}, and its WireGuard is silent. {_SILENT[around.paired]}"


def look_around(tunnel: Tunnel | None, *, paired: bool, mtls: bool = False) -> Around:
    """See what there is; takes some seconds at most."""
    if tunnel is None or tunnel.relay is None:
        return Around("", error=(tunnel.error or "") if tunnel else "")
    addresses = _resolve(tunnel.relay)
    return Around(
        tunnel.relay,
        addresses,
        ipv4=_has_default("-4"),
        ipv6=_has_default("-6"),
        answers=any(_answers(address, (PORT, *_PORTS) if mtls else _PORTS) for address in addresses[:2]),
        paired=paired,
        error=tunnel.error or "",
        mtls=mtls,
    )


def _resolve(name: str) -> tuple[str, ...]:
    try:
        return tuple({str(entry[4][0]) for entry in socket.getaddrinfo(name, LISTEN_PORT, type=socket.SOCK_DGRAM)})
    except OSError:
        return ()


def _answers(address: str, ports: Iterable[int]) -> bool:
    for port in ports:
        try:
            socket.create_connection((address, port), _SECONDS).close()
        except ConnectionRefusedError:
            return True  # it runs, and has no software yet
        except OSError:
            continue
        return True
    return False


def _has_default(family: str) -> bool:
    command = ["ip", family, "route", "show", "default"]
    try:
        shown = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_SECONDS).stdout
    except (OSError, subprocess.TimeoutExpired):
        return True
    return bool(shown.strip())
