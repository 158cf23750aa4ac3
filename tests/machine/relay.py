"""A relay's end of the tunnel in a network namespace, with a small world behind it, and a watch on what goes by."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from ipaddress import ip_address

from model.tunnel import LISTEN_PORT, Addresses, HomeEnd
from tests.machine.machine import Client, Machine
from tests.network.net import Namespace, join, namespace, wireguard

ADDRESSES = Addresses.model_validate(
    {"home4": "10.98.0.1", "relay4": "10.98.0.2", "home6": "fd98::1", "relay6": "fd98::2"}
)
WAN, RELAY = "192.0.2.1", "192.0.2.2"
"""Addresses of the device and of the relay in the network that the tunnel goes through."""

OUTSIDE = "198.51.100.1"
"""The relay's address in the world."""

WORLD, WORLD_6 = "198.51.100.25", "2001:db8:25::25"
"""Addresses of a mail server in the world."""

_ETH_P_ALL = 3  # <linux/if_ether.h>
_RULES = """\
table ip out {
    chain postrouting {
        type nat hook postrouting priority srcnat
        oifname "world0" masquerade
    }
}
"""


@dataclass(frozen=True)
class Letter:
    """A message as it came in."""

    client: str
    helo: str
    sender: str
    recipient: str
    text: str


@dataclass
class Sink:
    """A stand-in for the recipient's mail server: it takes every message and keeps it. It knows no extension."""

    listener: socket.socket
    letters: list[Letter] = field(default_factory=list)

    def start(self) -> None:
        """Take connections until the listener is closed."""
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, peer = self.listener.accept()
                threading.Thread(target=self._serve, args=(connection, peer[0]), daemon=True).start()

    def _serve(self, connection: socket.socket, client: str) -> None:
        with connection, connection.makefile("rwb") as stream, suppress(OSError):
            words: dict[str, str] = {}
            stream.write(b"220 sink\r\n")
            stream.flush()
            for line in stream:
                verb, _, rest = line.decode().strip().partition(" ")
                words[verb.upper()] = rest
                if verb.upper() == "DATA":
                    stream.write(b"354 go on\r\n")
                    stream.flush()
                    text = b"".join(iter(stream.readline, b".\r\n")).decode()
                    sender, recipient = (words[name].partition("<")[2].partition(">")[0] for name in ("MAIL", "RCPT"))
                    self.letters.append(Letter(client, words.get("EHLO", ""), sender, recipient, text))
                stream.write(b"221 bye\r\n" if verb.upper() == "QUIT" else b"250 sink\r\n")
                stream.flush()


class Watch:
    """All packets of one interface from now on, as that end of the cable sees them.

    Args:
        where: the computer whose interface it is.
    """

    def __init__(self, where: Client, interface: str) -> None:
        self._socket = where.call(socket.socket, socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ETH_P_ALL))
        self._socket.bind((interface, _ETH_P_ALL))
        self._socket.setblocking(False)
        self._seen: list[bytes] = []

    def packets(self) -> list[bytes]:
        """All of them so far, from the IP header on."""
        with suppress(BlockingIOError):
            while True:
                self._seen.append(self._socket.recv(65536))
        return self._seen

    def mail(self) -> list[str]:
        """The destinations of all packets of TCP to port 25."""
        return [where for where, protocol, port in map(_read, self.packets()) if (protocol, port) == (6, 25)]

    def close(self) -> None:
        """Stop watching."""
        self._socket.close()


def _read(packet: bytes) -> tuple[str, int, int]:
    """Give destination, protocol and destination port (RFC 791 §3.1, RFC 8200 §3; extension headers are not read)."""
    if packet[:1] and packet[0] >> 4 == 6 and len(packet) >= 44:
        return str(ip_address(packet[24:40])), packet[6], int.from_bytes(packet[42:44], "big")
    if packet[:1] and packet[0] >> 4 == 4 and len(packet) >= 24:
        start = (packet[0] & 15) * 4
        return str(ip_address(packet[16:20])), packet[9], int.from_bytes(packet[start + 2 : start + 4], "big")
    return "", 0, 0


class Relay:
    """The relay's end of the tunnel: wireguard-go, and a way out to the world.

    Args:
        client: the computer that it is.
        world: the mail server's computer.
        sink: what listens there.
    """

    interface = f"home{os.getpid()}"

    def __init__(self, client: Namespace, world: Namespace, sink: Sink) -> None:
        self.client = client
        self.world = world
        self.sink = sink
        self._private_key = _wg("genkey")
        self._home_key = _wg("genkey")
        self._tunnel = ExitStack()

    def home_end(self, relay: str) -> HomeEnd:
        """What home is to know.

        Args:
            relay: name or address of the relay.
        """
        return HomeEnd(
            private_key=self._home_key,
            relay_key=_wg("pubkey", self._private_key),
            relay=relay,
            addresses=ADDRESSES,
        )

    def start(self) -> None:
        """Bring the end of the tunnel up."""
        peer = [_wg("pubkey", self._home_key), "allowed-ips", f"{ADDRESSES.home4}/32,{ADDRESSES.home6}/128"]
        own = [f"{ADDRESSES.relay4}/32", f"{ADDRESSES.relay6}/128"]
        end = wireguard(self.client, self.interface, own, self._private_key, peer, LISTEN_PORT)
        self._tunnel.enter_context(end)
        for address in (ADDRESSES.home4, ADDRESSES.home6):
            self.ip("route", "add", str(address), "dev", self.interface)

    def stop(self) -> None:
        """Let the end of the tunnel go."""
        self._tunnel.close()

    def ip(self, *arguments: str) -> None:
        """Run ip(8) on the relay."""
        self.client.run("ip", *arguments)


@contextmanager
def relay_behind(machine: Machine) -> Iterator[Relay]:
    """A relay that the device reaches by a cable of its own, and a mail server in the world behind it."""
    with machine.cable("wan0", (WAN, "fd92::1"), (RELAY, "fd92::2")) as cable, namespace() as world:
        client = Namespace(cable.pid)
        join(client, world, ("world0", "relay1"), (f"{OUTSIDE}/24", f"{WORLD}/24"))
        listener = world.call(socket.create_server, (WORLD, 25))
        relay = Relay(client, world, Sink(listener))
        relay.sink.start()
        client.run("sysctl", "--quiet", "--write", "net.ipv4.ip_forward=1")
        client.run("nft", "-f", "-", stdin=_RULES)
        relay.start()
        try:
            yield relay
        finally:
            relay.stop()
            listener.close()
            client.close()


def _wg(command: str, text: str = "") -> str:
    return subprocess.run(["wg", command], input=text, text=True, capture_output=True, check=True).stdout.strip()


def put_home_end(machine: Machine, home: HomeEnd) -> None:
    """Give the device its half, as its agent stores it."""
    path = machine.data / "darkpipe/relay.json"
    partial = path.with_name(".relay.json.new")
    partial.touch(0o600)
    partial.write_text(home.model_dump_json())
    partial.replace(path)
