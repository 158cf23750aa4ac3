"""darkpipe-agent: takes keys, settings, recipients and software from home, and from nobody else."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import sys
import threading
import time
from pathlib import Path

from model.control import AGENT_PORT
from model.control_tls import CertificateError, Pins
from relay import pairing_file
from relay.agent_api import RECIPIENTS, SETTINGS, AgentApi
from relay.callers import COMMAND, Callers, packets
from relay.control_server import ControlServer
from relay.keeper import Folders, Keeper, log
from relay.link import Link, LinkError
from relay.machine import QUEUE_USER, Failure, System
from relay.openvpn_link import OpenvpnLink
from relay.pairing import Kept, Keys
from relay.tunnel_file import OPENVPN_FILE
from relay.unlock import UnlockFolder
from relay.updates import Updates, apply_settings

_EVERY = 0.5
"""Seconds between two looks at the time."""

_RUN = "/opt/darkpipe/current/run"


class Agent:
    """The listener, which is made anew for other keys: whoever came by others is hung up on.

    Args:
        address: the relay's in the tunnel.
        unlock: where the keys for home's disk lie.
    """

    def __init__(
        self,
        keeper: Keeper,
        folders: Folders,
        system: System,
        address: str,
        port: int = AGENT_PORT,
        unlock: UnlockFolder | None = None,
    ) -> None:
        self._keeper, self._folders, self._system = keeper, folders, system
        self._place = (address, port)
        self._unlock = unlock or UnlockFolder()
        self._served: Keys | None = None
        self._server: ControlServer | None = None
        self._serving: threading.Thread | None = None
        self._updates = Updates(system)
        self._turn = threading.Lock()

    def look(self) -> None:
        """Let time pass, and serve by the keys that are in use now."""
        self._keeper.tick()
        keys = self._keeper.state.in_use
        if keys == self._served and self._serving and self._serving.is_alive():
            return
        self.stop()
        pins = self._pins(keys) if keys.own_pem else None
        acts = (self._updates, self._apply, self._reread, self._group, self._turn)
        api = AgentApi(self._keeper, keys, self._folders, _software(), *acts, self._unlock)
        family = socket.AF_INET6 if ":" in self._place[0] else socket.AF_INET
        listener = socket.create_server(self._place, family=family)
        server = ControlServer(listener, lambda: pins, lambda: self._keeper.identity, api, newer=True)

        def serve() -> None:
            with listener:
                server.serve()

        self._server, self._served = server, keys
        self._serving = threading.Thread(target=serve)
        self._serving.start()
        log(f"listens for {'home' if pins else 'whoever has the bootstrap'}")

    def stop(self) -> None:
        """Hang up on everybody."""
        if self._server and self._serving:
            self._server.stop()
            self._serving.join()
        self._server = self._serving = None

    def _pins(self, keys: Keys) -> Pins:
        # ssl reads keys from files only.
        path = self._folders.state.with_name("in-use.pem")
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(keys.own_pem)
        try:
            return Pins(path, keys.home_certificate, server=True)
        finally:
            path.unlink()

    def _apply(self) -> None:
        give_to_queue(self._folders, self._system)
        apply_settings(self._system)

    def _group(self) -> int | None:
        return self._system.user(QUEUE_USER)  # systemd-sysusers gives user and group one number

    def _reread(self) -> None:
        give_to_queue(self._folders, self._system)
        self._system.try_run("systemctl", "--no-block", "reload-or-restart", "darkpipe-queue.service")


def give_to_queue(folders: Folders, system: System) -> None:
    """Let the queue read what home has pushed."""
    user = system.user(QUEUE_USER)
    for name in (SETTINGS, RECIPIENTS):
        path = folders.config / name
        if user is not None and path.exists():
            os.chown(path, 0, user)  # systemd-sysusers gives user and group one number


def find_link(folders: Folders) -> Link | OpenvpnLink:
    """Give the tunnel of the transport that this server was made for."""
    return OpenvpnLink(folders.state.parent) if (Path("/") / OPENVPN_FILE).exists() else Link()


def read_kept(folders: Folders, link: Link | OpenvpnLink) -> Kept:
    """Read how far the relay is; at its first start, begin with the bootstrap's keys.

    Raises:
        LinkError, DamagedError, OSError: that is not possible.
    """
    kept = pairing_file.read(folders.state)
    if kept is None:
        kept = Kept(secrets.token_hex(16), link.initial_keys())
        pairing_file.write(folders.state, kept)
    return kept


def main() -> int:
    """Run until SIGTERM; exit status 1 after a text when that is not possible."""
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    folders, system = Folders(), System()
    link = find_link(folders)
    agents: list[Agent] = []
    try:
        folders.state.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        kept = read_kept(folders, link)
        keeper = Keeper(kept, link, folders, lambda: _certificates_changed(system), lambda: _settled(system))
        keeper.start()
        give_to_queue(folders, system)  # the latest start may have ended just before that
        agent = Agent(keeper, folders, system, str(link.tunnel.addresses.relay6))
        agents.append(agent)
        callers = Callers(lambda: packets(system.try_run(*COMMAND)[1]))
        while not stopped.is_set():
            agent.look()
            if said := callers.look(time.monotonic()):
                log(said)
            stopped.wait(_EVERY)
    except (LinkError, pairing_file.DamagedError, CertificateError, Failure, OSError, ValueError) as error:
        log(str(error))
        return 1
    finally:
        for one in agents:
            one.stop()
    return 0


def _certificates_changed(system: System) -> None:
    # It reads certificates at its start only (LoadCredential=).
    system.try_run("systemctl", "--no-block", "try-restart", "darkpipe-queue.service")
    # The queue may have waited for them, and the firewall names the tunnel's addresses. Not --wait: this may start the
    # agent itself again.
    system.try_run(
        "systemd-run", "--quiet", "--collect", "--unit=darkpipe-settle", "--", _RUN, "relay.install", "apply"
    )


def _settled(system: System) -> None:
    """Remove cloud-init's copies of the bootstrap's keys: in a unit of its own, since they are hidden from this one."""
    system.try_run("systemd-run", "--quiet", "--collect", "--unit=darkpipe-retire", "--", _RUN, "relay.retire")


def _software() -> str:
    folder = Path(__file__).resolve().parent.parent
    return folder.name if (folder / "bundle.json").is_file() else ""


if __name__ == "__main__":
    sys.exit(main())
