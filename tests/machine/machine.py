"""A home device under systemd-nspawn: the root tar of an image, read-only, with volumes of its own.

What a container cannot have is left out: kernel, disk, boot partition (a folder stands for it), firmware.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import hashlib
import os
import selectors
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import ParamSpec, TypeVar

from tests.nspawn import Container, MachineError

_P = ParamSpec("_P")
_T = TypeVar("_T")

_LIBC = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNET = 0x40000000  # <linux/sched.h>; os.setns() came with Python 3.12

HOME_ADDRESS = "192.168.55.1"
"""The device's address in the LAN that a test gives it (RFC 1918: its neighbours there are no strangers to it)."""

HOME_ADDRESS_6 = "fd55::1"
"""The same for IPv6 (RFC 4193)."""

CLIENT_ADDRESS = "192.168.55.2"
_CLIENT_ADDRESS_6 = "fd55::2"

STRANGER_ADDRESS = "203.0.113.9"
"""An address outside of the LAN (RFC 5737) that the other computer has as well."""

TUNNEL_ADDRESS = "10.99.0.1"
"""The device's address in the tunnel to a relay."""

TUNNEL_ADDRESS_6 = "fd99::1"
"""The same for IPv6 (RFC 4193)."""


def unpack(tar: Path, cache: Path) -> Path:
    """Unpack a root tar into a folder that is kept for the next run.

    Args:
        cache: folder for unpacked trees; all but this one are removed from it.
    """
    digest = _digest(tar)
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for other in cache.iterdir():
            if other.is_dir() and other.name != digest:
                shutil.rmtree(other)
        tree = cache / digest
        if not tree.is_dir():
            partial = cache / f"{digest}.new"
            partial.mkdir()
            # systemd-nspawn makes /dev itself.
            options = ["--numeric-owner", "--same-permissions", "--exclude=./dev/*"]
            subprocess.run(["tar", "--extract", *options, f"--file={tar}", f"--directory={partial}"], check=True)
            partial.rename(tree)
        return tree


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


class Machine(Container):
    """One device, off at first.

    Args:
        root: the unpacked root.
        scratch: a folder for its volumes, its console and its boot partition.
    """

    def __init__(self, root: Path, scratch: Path) -> None:
        super().__init__(scratch)
        self._root = root
        for name in ("data", "state", "boot"):
            (scratch / name).mkdir(parents=True)

    @property
    def data(self) -> Path:
        """The device's /data, seen from outside."""
        return self._scratch / "data"

    @property
    def state(self) -> Path:
        """The device's /state, seen from outside."""
        return self._scratch / "state"

    @property
    def boot_partition(self) -> Path:
        """The folder that stands for the boot partition."""
        return self._scratch / "boot"

    def _options(self) -> Sequence[str]:
        var = self._scratch / f"var-{self._starts}"  # volatile: every start has a fresh one
        var.mkdir()
        return [
            f"--directory={self._root}",
            "--read-only",
            f"--overlay=+/var:{var}:/var",
            *(f"--bind={self._scratch / name}:/{name}" for name in ("data", "state", "boot")),
            "--private-network",
        ]

    @contextmanager
    def lan(self) -> Iterator[Client]:
        """Plug a cable in, with one other computer at its end."""
        with self._joined("lan0", (HOME_ADDRESS, HOME_ADDRESS_6), (CLIENT_ADDRESS, _CLIENT_ADDRESS_6)) as client:
            _ip("address", "add", f"{STRANGER_ADDRESS}/32", "dev", "lan0", target=client.pid)
            _ip("route", "add", STRANGER_ADDRESS, "dev", "lan0", target=self._leader)
            yield client

    @contextmanager
    def tunnel(self) -> Iterator[Client]:
        """Give the device an interface that is named as a tunnel to a relay, with the relay at its end."""
        relay = ("10.99.0.2", "fd99::2")
        with self._joined("relay0", (TUNNEL_ADDRESS, TUNNEL_ADDRESS_6), relay) as client:
            # In a tunnel nobody asks for neighbours, and the firewall lets nobody do so.
            _know(self._leader, "relay0", relay, client.pid)
            _know(client.pid, "relay0", (TUNNEL_ADDRESS, TUNNEL_ADDRESS_6), self._leader)
            yield client

    def cable(self, name: str, home: tuple[str, str], other: tuple[str, str]) -> AbstractContextManager[Client]:
        """Plug in one more cable, with one other computer at its end.

        Args:
            name: of the interface at both ends.
            home, other: addresses of the device and of the computer, IPv4 and IPv6, each of a /24 and a /64.
        """
        return self._joined(name, home, other)

    @contextmanager
    def _joined(self, name: str, home: tuple[str, str], other: tuple[str, str]) -> Iterator[Client]:
        # A process holds the client's network namespace: when it ends, so does the namespace.
        holder = subprocess.Popen(["unshare", "--net", "sleep", "infinity"], stdin=subprocess.DEVNULL)
        try:
            client = Client(holder.pid)
            client.wait_for_namespace()
            ends = ["link", "add", name, "netns", str(self._leader), "type", "veth"]
            _ip(*ends, "peer", name, "netns", str(holder.pid))
            _set_up(self._leader, name, home)
            _set_up(holder.pid, name, other)
            _ip("link", "set", "lo", "up", target=holder.pid)
            try:
                yield client
            finally:
                client.close()
                # The kernel takes its time to clear a namespace away, and with it the name of this end.
                _ip("link", "delete", name, target=self._leader)
        finally:
            holder.terminate()
            holder.wait()


class Client:
    """Another computer in the device's LAN."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        # setns(2) moves one thread: what runs in this one, child processes included, sees the client's network.
        self._inside = ThreadPoolExecutor(max_workers=1, initializer=self._enter)

    def _enter(self) -> None:
        with Path(f"/proc/{self.pid}/ns/net").open("rb") as namespace:
            if _LIBC.setns(namespace.fileno(), _CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "setns")

    def call(self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Call a function in the client's network; the sockets that it returns stay there."""
        return self._inside.submit(function, *args, **kwargs).result()

    def add_address(self, address: str) -> None:
        """Give the client one more address, which nobody but itself can reach."""
        # Without trying out whether somebody else has it, which would take a moment.
        kind = ["128", "nodad"] if ":" in address else ["32"]
        _ip("address", "add", f"{address}/{kind[0]}", "dev", "lo", *kind[1:], target=self.pid)

    def route(self, address: str, gateway: str) -> None:
        """Send what is for an address to a neighbour."""
        _ip("route", "replace", address, "via", gateway, target=self.pid)

    def reachable(self, ports: Iterable[int], address: str = HOME_ADDRESS) -> set[int]:
        """Try all at once on which ports the device takes a TCP connection."""
        return {port for _, port in self.reachable_at((address, port) for port in ports)}

    def reachable_at(self, places: Iterable[tuple[str, int]]) -> set[tuple[str, int]]:
        """The same for several addresses at once."""
        return self.call(_reachable, tuple(places))

    def can_connect(self, port: int, address: str = HOME_ADDRESS) -> bool:
        """Try whether the device takes a TCP connection on a port."""
        return self.reachable([port], address) == {port}

    def close(self) -> None:
        """Leave the network."""
        self._inside.shutdown()

    def wait_for_namespace(self) -> None:
        """Wait until the process that holds the namespace has entered it."""
        own = Path("/proc/self/ns/net").readlink()
        deadline = time.monotonic() + 10
        while Path(f"/proc/{self.pid}/ns/net").readlink() == own:
            if time.monotonic() > deadline:
                raise MachineError("no network namespace could be made")
            time.sleep(0.01)


def wait_for(condition: Callable[[], bool], what: str, seconds: float = 30) -> None:
    """Wait until something is so.

    Raises:
        AssertionError: it is not so in time.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not in time"
        time.sleep(0.2)


def _reachable(places: Sequence[tuple[str, int]]) -> set[tuple[str, int]]:
    with selectors.DefaultSelector() as selector, ExitStack() as opened:
        for address, port in places:
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            attempt = opened.enter_context(socket.socket(family, socket.SOCK_STREAM))
            attempt.setblocking(False)
            if attempt.connect_ex((address, port)) != errno.EINPROGRESS:
                continue
            selector.register(attempt, selectors.EVENT_WRITE, (address, port))
        found = set()
        deadline = time.monotonic() + 2.0
        while selector.get_map() and (left := deadline - time.monotonic()) > 0:
            for key, _ in selector.select(left):
                assert isinstance(key.fileobj, socket.socket)
                if key.fileobj.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0:
                    found.add(key.data)
                selector.unregister(key.fileobj)
        return found


def _ip(*arguments: str, target: int | None = None) -> None:
    inside = [] if target is None else ["nsenter", f"--target={target}", "--net", "--"]
    subprocess.run([*inside, "ip", *arguments], check=True)


def _know(target: int, name: str, addresses: tuple[str, str], whose: int) -> None:
    """Tell one end of a cable the other's link address."""
    shown = subprocess.run(
        ["nsenter", f"--target={whose}", "--net", "--", "ip", "-brief", "link", "show", "dev", name],
        check=True,
        capture_output=True,
        text=True,
    )
    for address in addresses:
        _ip("neighbour", "replace", address, "lladdr", shown.stdout.split()[2], "dev", name, target=target)


def _set_up(target: int, name: str, addresses: tuple[str, str]) -> None:
    _ip("address", "add", f"{addresses[0]}/24", "dev", name, target=target)
    # Nobody else is there, so that the address need not be tried out first.
    _ip("address", "add", f"{addresses[1]}/64", "dev", name, "nodad", target=target)
    _ip("link", "set", name, "up", target=target)


def why_not() -> str | None:
    """Say what this computer lacks to run a machine; None when nothing."""
    if os.geteuid() != 0:
        return "machines run under systemd-nspawn, which needs root"
    needed = {
        "systemd-nspawn": "systemd-container",
        "swaks": "swaks",
        "ssh": "openssh-client",
        "strace": "strace",
        "nsenter": "util-linux",
        "ip": "iproute2",
        "haproxy": "haproxy",
        "ldns-signzone": "ldnsutils",
        "wireguard-go": "wireguard-go",
        "wg": "wireguard-tools",
    }
    missing = [package for tool, package in needed.items() if shutil.which(tool) is None]
    if missing:
        return f"missing Debian packages: {' '.join(missing)}"
    return None


def scratch_folder() -> Path:
    """Make a folder for a machine's volumes, on a disk where root may set owners."""
    return Path(tempfile.mkdtemp(prefix="darkpipe-machine-"))
