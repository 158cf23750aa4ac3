"""A relay's end of the tunnel in a network namespace, with a small world behind it, and a watch on what goes by."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

from model.tunnel import LISTEN_PORT, Addresses, HomeEnd
from tests.machine.machine import Client, Machine, wait_for

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

    def __init__(self, client: Client, world: Client, sink: Sink) -> None:
        self.client = client
        self.world = world
        self.sink = sink
        self._private_key = _wg("genkey")
        self._home_key = _wg("genkey")
        self._program: subprocess.Popen[bytes] | None = None

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
        environment = {**os.environ, "LOG_LEVEL": "error", "WG_PROCESS_FOREGROUND": "1"}
        self._program = self.client.call(
            subprocess.Popen, ["wireguard-go", "-f", self.interface], stdin=subprocess.DEVNULL, env=environment
        )
        socket_path = Path(f"/var/run/wireguard/{self.interface}.sock")
        wait_for(socket_path.is_socket, "wireguard-go")
        home_key = _wg("pubkey", self._home_key)
        allowed = f"{ADDRESSES.home4}/32,{ADDRESSES.home6}/128"
        port = str(LISTEN_PORT)
        settings = f"[Interface]\nPrivateKey={self._private_key}\nListenPort={port}\n"
        settings += f"[Peer]\nPublicKey={home_key}\nAllowedIPs={allowed}\n"
        subprocess.run(["wg", "setconf", self.interface, "/dev/stdin"], input=settings, text=True, check=True)
        self.ip("link", "set", "dev", self.interface, "mtu", "1280", "up")
        self.ip("address", "add", f"{ADDRESSES.relay4}/32", "dev", self.interface)
        self.ip("address", "add", f"{ADDRESSES.relay6}/128", "dev", self.interface, "nodad")
        for route in (f"{ADDRESSES.home4}/32", f"{ADDRESSES.home6}/128"):
            self.ip("route", "add", route, "dev", self.interface)

    def stop(self) -> None:
        """Let the end of the tunnel go."""
        if self._program is not None:
            self._program.terminate()
            self._program.wait()
            self._program = None

    def ip(self, *arguments: str) -> None:
        """Run ip(8) on the relay."""
        self.client.call(subprocess.run, ["ip", *arguments], check=True)


@contextmanager
def relay_behind(machine: Machine) -> Iterator[Relay]:
    """A relay that the device reaches by a cable of its own, and a mail server in the world behind it."""
    with machine.cable("wan0", (WAN, "fd92::1"), (RELAY, "fd92::2")) as client, _world(client) as world:
        listener = world.call(socket.create_server, (WORLD, 25))
        relay = Relay(client, world, Sink(listener))
        relay.sink.start()
        client.call(_forward)
        client.call(subprocess.run, ["nft", "-f", "-"], input=_RULES, text=True, check=True)
        relay.start()
        try:
            yield relay
        finally:
            relay.stop()
            listener.close()


@contextmanager
def _world(relay: Client) -> Iterator[Client]:
    holder = subprocess.Popen(["unshare", "--net", "sleep", "infinity"], stdin=subprocess.DEVNULL)
    try:
        world = Client(holder.pid)
        world.wait_for_namespace()
        for command in (
            f"link add world0 type veth peer name relay1 netns {holder.pid}",
            f"address add {OUTSIDE}/24 dev world0",
            "link set world0 up",
        ):
            relay.call(subprocess.run, ["ip", *command.split()], check=True)
        for command in (f"address add {WORLD}/24 dev relay1", "link set relay1 up", "link set lo up"):
            world.call(subprocess.run, ["ip", *command.split()], check=True)
        try:
            yield world
        finally:
            world.close()
    finally:
        holder.terminate()
        holder.wait()


def _forward() -> None:
    # /proc/sys/net shows a process the network that it is in, and this thread is in another one than its process.
    subprocess.run(["sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward"], check=True)


def _wg(command: str, text: str = "") -> str:
    return subprocess.run(["wg", command], input=text, text=True, capture_output=True, check=True).stdout.strip()


def put_home_end(machine: Machine, home: HomeEnd) -> None:
    """Give the device its half, as its agent stores it."""
    path = machine.data / "darkpipe/relay.json"
    partial = path.with_name(".relay.json.new")
    partial.touch(0o600)
    partial.write_text(home.model_dump_json())
    partial.replace(path)
