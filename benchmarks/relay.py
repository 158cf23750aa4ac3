"""The relay's pass-through, against a direct connection through the same tunnel, and Postfix that stores and forwards.

A world, a relay and a home in three network namespaces. Home is a Postfix that throws away what it has taken, with its
queue in memory, so that nothing but the way there makes a difference.

All share the processors of one computer, and one round differs from the next by a quarter or more. Therefore each round
takes all ways, each time in another order, and the ratio is the median of the rounds' own ratios: the best of a few
would be the luckiest.
"""

from __future__ import annotations

import itertools
import re
import smtplib
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.kit.postfix import POSTFIX_MAIN
from benchmarks.kit.processes import memory
from benchmarks.kit.report import Row, megabytes, show
from benchmarks.kit.root import root_and_scratch
from builder.build import SOURCE
from builder.errors import BuildError
from model.tunnel import HOME_INTERFACE, RELAY_INTERFACE, Addresses, RelayEnd
from tests.machine.machine import wait_for, why_not
from tests.network.net import Namespace, join, namespace, wireguard
from tests.network.postfix import POSTFIX_MASTER, running_postfix
from tests.relay_files import RelaySetting, relay_files

_ROUNDS = 12
"""A multiple of the number of orders."""

_ALONE = 204
"""Messages for the median of the delay; a multiple of it, too."""

_PATIENCE = 120.0
"""Seconds for all messages of one way in one round."""

_RECIPIENT = "alice@example.com"
_WORLD, _RELAY, _CABLE_RELAY, _CABLE_HOME = "192.0.2.9", "192.0.2.1", "198.51.100.1", "198.51.100.2"
_WORLD_6, _RELAY_6 = "2001:db8:1::9", "2001:db8:1::1"
_ADDRESSES = Addresses.model_validate(
    {"home4": "10.99.0.1", "relay4": "10.99.0.2", "home6": "fd99::1", "relay6": "fd99::2"}
)
_STORE_PORT = 2526

_READY = """
import asyncio, sys
sys.path.insert(0, sys.argv[1])
from home.ready import PORT, Server
async def main():
    async with await asyncio.start_server(Server(lambda: "up").serve, "::", PORT) as server:
        await server.serve_forever()
asyncio.run(main())
"""
"""What a home answers to HAProxy's checks, without the checks of its own that are behind it."""


@dataclass(frozen=True)
class _Way:
    """One way for a message to take.

    Args:
        address: that a sender in the world connects to.
    """

    name: str
    address: str
    port: int


_DIRECT = _Way("direct", str(_ADDRESSES.home6), 25)
_PASSED = _Way("pass-through", _RELAY_6, 25)
_STORED = _Way("store and forward", _RELAY_6, _STORE_PORT)
_WAYS = (_DIRECT, _PASSED, _STORED)
_ORDERS = tuple(itertools.permutations(_WAYS))
"""What one way leaves to be done falls to each of the others equally often."""


class _Log:
    """Counts the messages that a Postfix has queued, from its log."""

    def __init__(self, path: Path) -> None:
        self._path, self._place, self._rest, self._count = path, 0, b"", 0

    def count(self) -> int:
        """Give the number up to now."""
        with self._path.open("rb") as file:
            file.seek(self._place)
            new = self._rest + file.read()
            self._place = file.tell()
        lines, _, self._rest = new.rpartition(b"\n")
        self._count += len(re.findall(rb"/qmgr\[\d+\]: \w+: from=.*\(queue active\)", lines))
        return self._count


@dataclass(frozen=True)
class _Scene:
    """World, relay and home, with all that runs there.

    Args:
        programs: the relay's, by name: the process that has the others as its children.
    """

    world: Namespace
    root: Path
    home: _Log
    programs: dict[str, int]

    def send(self, way: _Way, count: int, octets: int, sessions: int) -> float:
        """Send by Postfix's smtp-source(1), a connection for each message.

        Returns:
            Seconds until home has queued the last one.
        """
        wanted = self.home.count() + count
        options = [f"-s{sessions}", f"-m{count}", f"-l{octets}", "-fa@example.net", f"-t{_RECIPIENT}"]
        source = ("timeout", str(_PATIENCE), "chroot", str(self.root), "smtp-source", "-6", *options)
        begun = time.monotonic()
        self.world.run(*source, f"[{way.address}]:{way.port}")
        self._wait_for_home(way, wanted)
        return time.monotonic() - begun

    def send_one(self, way: _Way, octets: int) -> float:
        """Send a message without the start of a program, which would take longer than the message.

        Returns:
            Seconds from the first packet until home has queued it.
        """
        wanted = self.home.count() + 1
        begun = time.monotonic()
        with self.world.call(smtplib.SMTP, way.address, way.port, "sender.example.net", _PATIENCE) as client:
            client.sendmail("a@example.net", [_RECIPIENT], b"Subject: one\r\n\r\n".ljust(octets, b"x"))
            self._wait_for_home(way, wanted)
            return time.monotonic() - begun

    def _wait_for_home(self, way: _Way, wanted: int) -> None:
        deadline = time.monotonic() + _PATIENCE
        while (number := self.home.count()) < wanted:
            if time.monotonic() > deadline:
                raise BuildError(f"{way.name}: home still lacks {wanted - number} messages after {_PATIENCE:.0f} s")
            time.sleep(0.0005)

    def memory(self, name: str) -> int:
        """Give the bytes that a program and its children take, shared pages once."""
        return memory(self.programs[name])


def main() -> None:
    """Measure and print a table."""
    if reason := why_not():
        raise BuildError(f"the benchmark cannot run here: {reason}")
    with _scene() as scene:
        for way in _WAYS:  # their daemons run then, and both ends of the tunnel are warm
            scene.send(way, 300, 1000, 16)
        rows = [
            *_speeds(scene, "messages of 5 KB, 16 at a time", 1500, 5_000, 16),
            *_speeds(scene, "messages of 10 MB, 4 at a time", 8, 10_000_000, 4),
            *_delays(scene),
        ]
        haproxy, postfix = scene.memory("haproxy"), scene.memory("postfix")
        rows.append(
            Row("memory: HAProxy, which passes through", megabytes(haproxy), f"{haproxy / postfix:.2f} of that")
        )
        rows.append(Row("memory: Postfix, which stores and forwards", megabytes(postfix)))
    show(rows)


def _speeds(scene: _Scene, what: str, count: int, octets: int, sessions: int) -> Iterator[Row]:
    seconds: dict[_Way, list[float]] = {way: [] for way in _WAYS}
    for number in range(_ROUNDS):
        for way in _ORDERS[number % len(_ORDERS)]:
            seconds[way].append(scene.send(way, count, octets, sessions))
    small = octets < 10**6
    amount, digits, unit = (count, 0, "connections/s") if small else (count * octets / 10**6, 1, "MB/s")
    for way in _WAYS:
        speeds = [amount / one for one in seconds[way]]
        ratios = [direct / one for direct, one in zip(seconds[_DIRECT], seconds[way], strict=True)]
        yield Row(
            f"{what}: {way.name}",
            _median(speeds, digits, f" {unit}"),
            _median(ratios, 2, " of direct") if way != _DIRECT else "",
            "≥ 0.8" if way == _PASSED else "",
        )


def _delays(scene: _Scene) -> Iterator[Row]:
    seconds: dict[_Way, list[float]] = {way: [] for way in _WAYS}
    for number in range(_ALONE):
        for way in _ORDERS[number % len(_ORDERS)]:
            seconds[way].append(scene.send_one(way, 1_000))
    direct = statistics.median(seconds[_DIRECT])
    for way in _WAYS:
        delay = statistics.median(seconds[way])
        added = f"{1000 * (delay - direct):+.1f} ms" if way != _DIRECT else ""
        yield Row(f"a message of 1 KB alone, median of {_ALONE}: {way.name}", f"{1000 * delay:.1f} ms", added)


def _median(values: Sequence[float], digits: int, unit: str) -> str:
    low, middle, high = (f"{one:.{digits}f}" for one in (min(values), statistics.median(values), max(values)))
    return f"{middle}{unit} ({low} to {high})"


@contextmanager
def _scene() -> Iterator[_Scene]:
    with ExitStack() as stack:
        root, scratch = stack.enter_context(root_and_scratch())
        world, relay, home = (stack.enter_context(namespace()) for _ in range(3))
        _connect(stack, world, relay, home)
        stack.enter_context(home.running(sys.executable, "-I", "-c", _READY, str(SOURCE)))
        transport = f"relay:[{_ADDRESSES.home6}]:25"
        log = _run_postfix(stack, home, "home.example.com", "discard:", _HOME_DOORS, root, scratch)[0]
        postfix = _run_postfix(stack, relay, "mx.example.com", transport, _STORE_DOORS, root, scratch)[1]
        proxy = stack.enter_context(relay.running("haproxy", "-db", "-f", str(_haproxy_settings(scratch))))
        wait_for(lambda: _home_is_up(relay), "HAProxy has found home")
        programs = {"haproxy": proxy.pid, "postfix": postfix.pid}
        yield _Scene(world, root, _Log(log), programs)


def _connect(stack: ExitStack, world: Namespace, relay: Namespace, home: Namespace) -> None:
    """Lay cables from the world to the relay and from there to home, and a tunnel through the second one."""
    join(world, relay, ("net0", "net0"), (f"{_WORLD}/24", f"{_RELAY}/24"), (f"{_WORLD_6}/64", f"{_RELAY_6}/64"))
    join(relay, home, ("net1", "net0"), (f"{_CABLE_RELAY}/24", f"{_CABLE_HOME}/24"))
    keys = {place: place.run("wg", "genkey").strip() for place in (relay, home)}
    public = {place: place.run("wg", "pubkey", stdin=key).strip() for place, key in keys.items()}
    own, other = f"{_ADDRESSES.relay6}/64", f"{_ADDRESSES.home6}/64"
    to_home = [public[home], "allowed-ips", f"{_ADDRESSES.home6}/128"]
    stack.enter_context(wireguard(relay, RELAY_INTERFACE, [own], keys[relay], to_home, 51820))
    to_relay = [public[relay], "endpoint", f"{_CABLE_RELAY}:51820", "allowed-ips", "::/0"]
    stack.enter_context(wireguard(home, HOME_INTERFACE, [other], keys[home], to_relay))
    # For the direct way, on which the relay is a router and nothing else.
    relay.run("sysctl", "--quiet", "--write", "net.ipv6.conf.all.forwarding=1")
    world.run("ip", "route", "add", f"{_ADDRESSES.home6}/128", "via", _RELAY_6)
    home.run("ip", "route", "add", f"{_WORLD_6}/128", "dev", HOME_INTERFACE)


_HOME_DOORS = """\
25 inet n - n - - smtpd
2525 inet n - n - - smtpd
  -o smtpd_upstream_proxy_protocol=haproxy
"""
_STORE_DOORS = f"""\
{_STORE_PORT} inet n - n - - smtpd
relay unix - - n - - smtp
"""


def _run_postfix(
    stack: ExitStack, place: Namespace, name: str, transport: str, doors: str, root: Path, scratch: Path
) -> tuple[Path, subprocess.Popen[bytes]]:
    """Run home's Postfix with its queue in memory, or the relay's with its queue on the disk; gives its log as well."""
    folder, log = scratch / name, scratch / f"{name}.log"
    settings = folder / "settings"
    settings.mkdir(parents=True)
    (settings / "main.cf").write_text(POSTFIX_MAIN.format(name=name, transport=transport))
    (settings / "master.cf").write_text(POSTFIX_MASTER.format(doors=doors))
    stores = doors == _STORE_DOORS
    process = stack.enter_context(running_postfix(place, settings, name, root, folder, log, disk=stores))
    port = _STORE_PORT if stores else 25
    wait_for(lambda: place.reachable([port], "127.0.0.1") == {port}, f"Postfix of {name}")
    return log, process


def _haproxy_settings(scratch: Path) -> Path:
    """Write the relay's own settings but for what one client may do, since there is one client only."""
    key = "A" * 43 + "="
    setting = RelaySetting(
        "mx.example.com", ["example.com"], RelayEnd(private_key=key, home_key=key, addresses=_ADDRESSES)
    )
    text = next(file.text for file in relay_files(setting) if file.path.name == "haproxy.cfg")
    text, limits = re.subn(r"(?m)^\ttcp-request connection reject if \{ sc0_.*\n", "", text)
    if limits != 1:
        raise BuildError("haproxy.cfg has other limits for a client than the benchmark takes out")
    path = scratch / "haproxy.cfg"
    path.write_text(text)
    return path


def _home_is_up(relay: Namespace) -> bool:
    script = (
        "import socket; s = socket.socket(socket.AF_UNIX); s.connect('/run/haproxy/admin.sock');"
        " s.sendall(b'show stat\\n'); print(s.makefile().read())"
    )
    state = relay.run("python3", "-c", script, check=False)
    return bool(re.search(r"(?m)^home-25,home,.*,UP,", state))


if __name__ == "__main__":
    try:
        main()
    except (BuildError, AssertionError) as error:
        sys.exit(f"Error: {error}")
