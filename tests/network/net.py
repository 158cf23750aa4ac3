"""Networks for tests: namespaces of their own, joined by cables, with real WireGuard tunnels between them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import ParamSpec, TypeVar

from model.tunnel import MTU
from tests.machine.machine import Client, wait_for

_P = ParamSpec("_P")
_T = TypeVar("_T")


_HOLD = "mount -t tmpfs none /run && mkdir /run/haproxy /run/wireguard && exec sleep infinity"
"""What is in /run, control sockets above all, belongs to one machine."""


_PING = """\
import os, socket, struct, sys
six = ":" in sys.argv[1]
family, protocol = (socket.AF_INET6, socket.IPPROTO_ICMPV6) if six else (socket.AF_INET, socket.IPPROTO_ICMP)
asks, answers = (128, 129) if six else (8, 0)
mark = os.urandom(4)
total = sum(struct.unpack("!4H", bytes([asks, 0, 0, 0]) + mark))
total = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
with socket.socket(family, socket.SOCK_RAW, protocol) as place:
    place.settimeout(float(sys.argv[2]))
    place.sendto(struct.pack("!BBH", asks, 0, 0 if six else total) + mark, (sys.argv[1], 0))
    while True:
        found = place.recv(2000)[0 if six else 20 :]
        if found[0] == answers and found[4:8] == mark:
            break
"""
"""An echo request (RFC 4443 §4.1, RFC 792), since not every computer has a ping(8)."""


class Namespace(Client):
    """A network namespace with a /run of its own, and what runs in it."""

    def command(self, *argv: str) -> Sequence[str]:
        """Give the words of a command that runs in this network."""
        return ["nsenter", f"--target={self.pid}", "--net", "--mount", "--", *argv]

    def run(self, *argv: str, stdin: str = "", check: bool = True) -> str:
        """Run a command and give what it printed, errors included.

        Raises:
            AssertionError: it failed.
        """
        done = subprocess.run(
            self.command(*argv), input=stdin, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        assert done.returncode == 0 or not check, f"{' '.join(argv)} gave {done.returncode}:\n{done.stdout}"
        return done.stdout

    def pings(self, address: str, seconds: float = 1.0) -> bool:
        """Tell whether an address answers an echo request in time."""
        said = self.run("python3", "-c", _PING, address, str(seconds), check=False)
        assert not said or "timed out" in said or "unreachable" in said, said
        return not said

    def start(self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        """Begin a call in this network; other calls wait until it is over."""
        return self._inside.submit(function, *args, **kwargs)

    @contextmanager
    def running(self, *argv: str, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
        """Run a program in this network until the end of the block."""
        process = subprocess.Popen(
            self.command(*argv), stdin=subprocess.DEVNULL, env={**os.environ, **environment}, start_new_session=True
        )
        try:
            yield process
        finally:
            process.terminate()
            process.wait()


@contextmanager
def namespace() -> Iterator[Namespace]:
    """Make a network of its own, with nothing in it but a loopback interface."""
    # A process holds the namespace: when it ends, so does the namespace.
    holder = subprocess.Popen(["unshare", "--net", "--mount", "sh", "-c", _HOLD], stdin=subprocess.DEVNULL)
    try:
        made = Namespace(holder.pid)
        made.wait_for_namespace()
        wait_for(lambda: Path(f"/proc/{holder.pid}/root/run/wireguard").is_dir(), "the namespace")
        made.run("ip", "link", "set", "lo", "up")
        try:
            yield made
        finally:
            made.close()
    finally:
        holder.terminate()
        holder.wait()


def join(one: Namespace, other: Namespace, names: tuple[str, str], *networks: tuple[str, str]) -> None:
    """Put a cable between two networks.

    Args:
        names: of the interface at either end.
        networks: address with prefix length at either end, for each network on the cable.
    """
    ends = ("ip", "link", "add", names[0], "type", "veth", "peer", names[1], "netns", str(other.pid))
    one.run(*ends)
    for index, (place, name) in enumerate(zip((one, other), names, strict=True)):
        for network in networks:
            # Nobody else is there, so that the address need not be tried out first.
            nodad = ["nodad"] if ":" in network[index] else []
            place.run("ip", "address", "add", network[index], "dev", name, *nodad)
        place.run("ip", "link", "set", name, "up")


@contextmanager
def wireguard(
    place: Namespace, name: str, addresses: Sequence[str], private_key: str, peer: Sequence[str], port: int = 0
) -> Iterator[None]:
    """Bring up one end of a tunnel by wireguard-go, since the kernel under the tests may have no WireGuard.

    Args:
        addresses: its own, with prefix lengths.
        peer: words of wg(8) after `peer`.
        port: UDP port to listen on; 0 takes any.
    """
    with place.running("wireguard-go", "--foreground", name, WG_PROCESS_FOREGROUND="1", LOG_LEVEL="silent"):
        wait_for(lambda: name in place.run("wg", "show", "interfaces", check=False).split(), name)
        listen = ["listen-port", str(port)] if port else []
        place.run("wg", "set", name, *listen, "private-key", "/dev/stdin", "peer", *peer, stdin=private_key)
        for address in addresses:
            place.run("ip", "address", "add", address, "dev", name, *(["nodad"] if ":" in address else []))
        place.run("ip", "link", "set", name, "mtu", str(MTU), "up")
        yield
