"""A relay in a network namespace: the files that are rendered for one, and the real daemons that read them."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from builder.build import SOURCE
from model.mtls import MtlsRelay
from model.tunnel import RELAY_INTERFACE, RelayEnd
from tests.machine.machine import wait_for
from tests.network.net import Namespace, wireguard
from tests.network.postfix import running_postfix
from tests.relay_files import RelaySetting, relay_files


@dataclass(frozen=True)
class Relay:
    """A relay that runs.

    Args:
        place: its network.
        log: what its Postfix has logged.
    """

    place: Namespace
    setting: RelaySetting
    log: Path
    _scratch: Path

    def settings(self, path: str) -> str:
        """Give the content of one of its files; the path lacks the leading slash."""
        return (self._scratch / "files" / path).read_text()

    def in_postfix(self, *argv: str, stdin: str = "") -> str:
        """Run a command in the system that its Postfix runs in, and give what it printed."""
        return self.place.run("chroot", str(self._scratch / "system"), *argv, stdin=stdin, check=False)

    def server_states(self) -> dict[str, str]:
        """Give HAProxy's word for each of its servers, `home-25/home` for instance."""
        return {name: row["status"] for name, row in self.statistics().items() if row["type"] == "2"}

    def statistics(self) -> dict[str, dict[str, str]]:
        """Give what HAProxy counts (its management guide, §9.1), by `proxy/server`."""
        rows = self.ask("show stat").splitlines()
        names = rows[0].removeprefix("# ").split(",")
        table = [dict(zip(names, row.split(","), strict=False)) for row in rows[1:] if row]
        return {f"{row['pxname']}/{row['svname']}": row for row in table}

    def ask(self, command: str) -> str:
        """Send a command to HAProxy's socket (HAProxy's management guide, §9.3)."""
        script = (
            "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect('/run/haproxy/admin.sock');"
            " s.sendall(sys.argv[1].encode() + b'\\n'); print(s.makefile().read())"
        )
        return self.place.run("python3", "-c", script, command)

    def reload_firewall(self) -> None:
        """Load its rules anew, as a restart does; what they have counted is forgotten."""
        self.place.run("nft", "--file", str(self._scratch / "files/etc/nftables.conf"))

    def forget_silent_home(self, later: int) -> None:
        """Run darkpipe-peer as its timer will do.

        Args:
            later: seconds by which date(1), here a stand-in that is told so, is ahead of the time.
        """
        stand_in = self._scratch / "later/date"
        stand_in.parent.mkdir(exist_ok=True)
        stand_in.write_text(f"#!/bin/sh\nexec /bin/date --date='{later} seconds' \"$@\"\n")
        stand_in.chmod(0o755)
        program = str(self._scratch / "files/usr/local/sbin/darkpipe-peer")
        self.place.run("env", f"PATH={stand_in.parent}:/usr/sbin:/usr/bin:/sbin:/bin", program)

    def home_is(self, state: str) -> bool:
        """Tell whether HAProxy takes home for up (`UP`) or down (`DOWN`)."""
        return self.server_states()["home-25/home"].startswith(state)


@contextmanager
def _queue(place: Namespace, folder: Path) -> Iterator[None]:
    """Run the queue as it is before home has pushed anything: it asks all senders to come again."""
    for name in ("config", "spool"):
        (folder / name).mkdir(parents=True)
    command = ["env", f"PYTHONPATH={SOURCE}", sys.executable, "-m", "relay.service"]
    with place.running(*command, "--config", str(folder / "config"), "--spool", str(folder / "spool")):
        wait_for(lambda: place.reachable([10026], "127.0.0.1") == {10026}, "the queue")
        yield


@contextmanager
def _wireguard(place: Namespace, tunnel: RelayEnd) -> Iterator[None]:
    addresses = tunnel.addresses
    own = [f"{addresses.relay4}/32", f"{addresses.relay6}/128"]
    peer = [tunnel.home_key, "allowed-ips", f"{addresses.home4}/32,{addresses.home6}/128"]
    with wireguard(place, RELAY_INTERFACE, own, tunnel.private_key, peer, tunnel.port):
        for address in (addresses.home4, addresses.home6):  # as wg-quick does
            place.run("ip", "route", "add", str(address), "dev", RELAY_INTERFACE)
        yield


@contextmanager
def _openvpn(place: Namespace, folder: Path) -> Iterator[None]:
    """Do what the drop-in of openvpn-server@home0.service says."""
    place.run("ip", "tuntap", "add", "dev", RELAY_INTERFACE, "mode", "tun")
    place.run("ip", "-batch", str(folder / "home0.ip"))
    clients = folder / "clients"
    clients.mkdir(exist_ok=True)
    shutil.copy(folder / "darkpipe-home", clients)
    with place.running("openvpn", "--config", str(folder / "home0.conf"), "--client-config-dir", str(clients)):
        yield


@contextmanager
def running_relay(place: Namespace, setting: RelaySetting, postfix_root: Path, scratch: Path) -> Iterator[Relay]:
    """Run a relay; it knows home by its key only, and home may come later.

    Args:
        place: a network with an interface to the Internet.
        postfix_root: a system with Postfix in it; it is not changed.
        scratch: a folder of its own.
    """
    files = scratch / "files"
    for file in relay_files(setting):
        path = files / file.path.relative_to("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        # Each client would wait for its greeting; tests/network/test_queue.py has it so.
        path.write_text(file.text.replace("postscreen_access_list =", "postscreen_access_list = static:permit"))
        path.chmod(file.mode)
    place.run("sysctl", "--quiet", f"--load={files / 'etc/sysctl.d/60-darkpipe.conf'}")
    place.run("nft", "--file", str(files / "etc/nftables.conf"))
    with ExitStack() as stack:
        if isinstance(setting.tunnel, MtlsRelay):
            stack.enter_context(_openvpn(place, files / "etc/openvpn/server"))
        else:
            stack.enter_context(_wireguard(place, setting.tunnel))
        log = scratch / "postfix.log"
        stack.enter_context(_queue(place, scratch / "queue"))
        stack.enter_context(running_postfix(place, files / "etc/postfix", setting.name, postfix_root, scratch, log))
        stack.enter_context(place.running("haproxy", "-db", "-f", str(files / "etc/haproxy/haproxy.cfg")))
        relay = Relay(place, setting, log, scratch)
        wait_for(lambda: place.reachable([25, 10024], "127.0.0.1") == {25, 10024}, "the relay")
        yield relay
