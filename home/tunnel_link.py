"""The tunnel's interface, routes and rules in the kernel, by ip(8) and wg(8)."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from model.mtls import AnyHome
from model.tunnel import HOME_INTERFACE, MTU, HomeEnd

TABLE = 51820
"""Routing table for mail that goes out; the number is WireGuard's port and means nothing else."""

_PRIORITY = 2500
"""Of the rule that leads there: after the device's own addresses (0), before all other routes (32766)."""

_KEEPALIVE = 25
"""Seconds. Routers forget a UDP flow after 30 (RFC 4787 §4.3 wants two minutes, and few comply)."""

_EVERYWHERE = "0.0.0.0/0,::/0"

_LAST = 9999
_PATIENCE = 15.0
_SOCKETS = Path("/var/run/wireguard")


class LinkError(Exception):
    """The kernel, or a tool, refuses; the text is theirs."""


def guard_routes(uid: int) -> None:
    """Let a user's connections to port 25 find no other way than the tunnel; done already, nothing changes.

    IPv6 is no way at all: the relay passes IPv4 on and nothing else.

    Raises:
        LinkError: ip(8) refuses.
    """
    for family in ("-4", "-6"):
        lines = (
            f"route replace unreachable default table {TABLE} metric {_LAST}",
            f"rule add priority {_PRIORITY} uidrange {uid}-{uid} ipproto tcp dport 25 lookup {TABLE}",
        )
        run_ip(family, lines, ignoring="File exists")


def address_commands(home: AnyHome) -> tuple[Sequence[str], Sequence[str]]:
    """List what ip(8) is told about a new interface, for IPv4 and for IPv6."""
    ends = home.addresses
    name = HOME_INTERFACE
    four = (
        # Without addresses of its own making: nobody but the relay's two addresses is at the other end.
        f"link set dev {name} mtu {MTU} addrgenmode none",
        f"address replace {ends.home4}/32 dev {name}",
        f"link set dev {name} up",
        f"route replace {ends.relay4}/32 dev {name} src {ends.home4}",
        f"route replace default dev {name} src {ends.home4} table {TABLE} metric 1",
    )
    six = (
        # Nobody else is there, so that the address need not be tried out first.
        f"address replace {ends.home6}/128 dev {name} nodad",
        f"route replace {ends.relay6}/128 dev {name} src {ends.home6}",
    )
    return four, six


def wireguard_settings(home: HomeEnd) -> str:
    """Write what `wg setconf` reads (wg(8), configuration file format)."""
    return (
        f"[Interface]\nPrivateKey = {home.private_key}\n"
        # All addresses of the world answer to mail that goes out; the firewall says what comes in.
        f"[Peer]\nPublicKey = {home.relay_key}\nAllowedIPs = {_EVERYWHERE}\n"
    )


def endpoint(address: str, port: int) -> str:
    """Write an address and a port as wg(8) wants them."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


@dataclass(frozen=True)
class Reading:
    """What WireGuard says of a peer.

    Args:
        handshake: time stamp of the latest handshake, 0 for none.
        received: octets.
    """

    handshake: int = 0
    received: int = 0


def parse_dump(text: str, key: str) -> Reading:
    """Find a peer in what `wg show … dump` prints (wg(8)); one that is not there has said nothing."""
    for row in text.splitlines()[1:]:
        fields = row.split("\t")
        if fields[0] == key and len(fields) >= 6 and fields[4].isdigit() and fields[5].isdigit():
            return Reading(int(fields[4]), int(fields[5]))
    return Reading()


@dataclass(frozen=True)
class Wire:
    """One end of a tunnel: an interface of WireGuard with one peer.

    Args:
        name: of the interface.
        settings: what `wg setconf` reads.
        commands: what ip(8) is told, for IPv4 and for IPv6.
        peer: the other end's public key.
        port: its UDP port.
        allowed: what the other end may send from, and is sent.
    """

    name: str
    settings: str = field(repr=False)
    commands: tuple[Sequence[str], Sequence[str]]
    peer: str
    port: int
    allowed: str


def home_wire(home: HomeEnd) -> Wire:
    """Give the tunnel that mail goes through."""
    commands = address_commands(home)
    return Wire(HOME_INTERFACE, wireguard_settings(home), commands, home.relay_key, home.port, _EVERYWHERE)


class Link:
    """The interface, with the program behind it where the kernel has no WireGuard."""

    def __init__(self, home: HomeEnd | Wire) -> None:
        self._wire = home_wire(home) if isinstance(home, HomeEnd) else home
        self._program: subprocess.Popen[bytes] | None = None

    def read(self) -> Reading | None:
        """Ask for the relay; None when there is no interface that answers."""
        if self._program is not None and self._program.poll() is not None:
            return None
        try:
            return parse_dump(run_tool("wg", "show", self._wire.name, "dump"), self._wire.peer)
        except LinkError:
            return None

    def make(self) -> None:
        """Make the interface, in the place of whatever has its name.

        Raises:
            LinkError: that is not possible; what was made of it is removed.
        """
        self.remove()
        try:
            self._create()
            # The key goes through a pipe: arguments can be read by everybody.
            run_tool("wg", "setconf", self._wire.name, "/dev/stdin", text=self._wire.settings)
            for family, lines in zip(("-4", "-6"), self._wire.commands, strict=True):
                run_ip(family, lines)
        except LinkError:
            self.remove()
            raise

    def point(self, address: str) -> None:
        """Forget the session, if there is one, and begin a handshake at an address.

        Raises:
            LinkError: wg(8) refuses.
        """
        peer = ("wg", "set", self._wire.name, "peer", self._wire.peer)
        # A relay that has started anew does not know the session, which would last for minutes.
        run_tool(*peer, "remove")
        where = ("endpoint", endpoint(address, self._wire.port), "allowed-ips", self._wire.allowed)
        # Switched on, a keepalive is sent at once, after a handshake.
        run_tool(*peer, *where, "persistent-keepalive", str(_KEEPALIVE))

    def remove(self) -> None:
        """Remove the interface; the rules and the unreachable routes stay."""
        if self._program is not None:
            end_program(self._program)
            self._program = None
        run_ip("-4", [f"link delete dev {self._wire.name}"], ignoring="Cannot find device")

    def endpoint(self, address: str) -> str:
        """Say where the relay is, for people."""
        return endpoint(address, self._wire.port)

    def problem(self) -> str | None:
        """Say what is in the tunnel's way: WireGuard does not know."""
        return None

    def _create(self) -> None:
        try:
            run_ip("-4", [f"link add dev {self._wire.name} type wireguard"])
        except LinkError as error:
            self._start_program(error)

    def _start_program(self, refused: LinkError) -> None:
        control = _SOCKETS / f"{self._wire.name}.sock"
        control.unlink(missing_ok=True)
        environment = {**os.environ, "LOG_LEVEL": "error", "WG_PROCESS_FOREGROUND": "1"}
        try:
            self._program = subprocess.Popen(
                ["wireguard-go", "--foreground", self._wire.name], stdin=subprocess.DEVNULL, env=environment
            )
        except OSError as error:
            raise LinkError(f"no WireGuard in the kernel ({refused}), and no wireguard-go: {error}") from None
        end = time.monotonic() + _PATIENCE
        while not control.is_socket():
            if self._program.poll() is not None or time.monotonic() > end:
                raise LinkError(f"no WireGuard in the kernel ({refused}), and wireguard-go makes no interface")
            time.sleep(0.05)


def end_program(program: subprocess.Popen[bytes]) -> None:
    """End a program, if need be by force."""
    program.terminate()
    try:
        program.wait(_PATIENCE)
    except subprocess.TimeoutExpired:
        program.kill()
        program.wait()


def run_ip(family: str, lines: Sequence[str], ignoring: str | None = None) -> None:
    """Run commands of ip(8); with an error to ignore, go on behind it.

    Raises:
        LinkError: it refuses.
    """
    options = ["-force"] if ignoring else []
    text = "".join(f"{line}\n" for line in lines)
    done = _execute(["ip", family, *options, "-batch", "-"], text)
    complaints = list(_complaints(done.stderr))
    bad = [complaint for complaint in complaints if not ignoring or ignoring not in complaint]
    if bad or (done.returncode != 0 and not complaints):
        raise LinkError("; ".join(bad) or f"ip {family} ended with status {done.returncode}")


def _complaints(text: str) -> Iterator[str]:
    """Leave out which line of the batch it was."""
    yield from (row.strip() for row in text.splitlines() if row.strip() and not row.startswith("Command failed"))


def run_tool(*argv: str, text: str = "") -> str:
    """Run a tool and give what it prints.

    Args:
        text: for its standard input.

    Raises:
        LinkError: it refuses.
    """
    done = _execute(argv, text)
    if done.returncode != 0:
        raise LinkError(done.stderr.strip() or f"{argv[0]} {argv[1]} ended with status {done.returncode}")
    return done.stdout


def _execute(argv: Sequence[str], text: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "LC_ALL": "C"}
    try:
        return subprocess.run(
            argv, input=text, capture_output=True, text=True, check=False, timeout=_PATIENCE, env=environment
        )
    except subprocess.TimeoutExpired:
        raise LinkError(f"{argv[0]} was not done after {_PATIENCE:.0f} s") from None
    except OSError as error:
        raise LinkError(str(error)) from None
