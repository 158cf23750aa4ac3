"""The relay's queue on the relay's end of the tunnel, and a home that is paired with it."""

from __future__ import annotations

import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from home.queue_keys import IDENTITIES
from home.relay_peer import CONTROL, PEER, RELAY, Peer
from model.control import QUEUE_PORT
from model.control_tls import Pins, certificate_command, certificate_of
from relay.control_server import ControlServer
from relay.fence import Identity
from relay.queue_api import QueueApi
from tests.drain import HOME, LocalRelay
from tests.machine.machine import Machine, wait_for
from tests.machine.relay import ADDRESSES, Relay, put_home_end
from tests.machine.relay import RELAY as RELAY_ADDRESS

HOME_ID, RELAY_ID = "a" * 32, "b" * 32


class Queue(LocalRelay):
    """The relay's queue, on the relay's end of the tunnel.

    Args:
        listener: there.
        keys: folder with keys and certificates of both.
        home: who drains it; when that takes too long, its log is printed.
    """

    def __init__(self, folder: Path, listener: socket.socket, keys: Path, home: Machine) -> None:
        super().__init__(folder)
        self.home = home
        self.identity = Identity(RELAY_ID, HOME_ID, 1)
        pins = Pins(keys / "relay-own.pem", (keys / "home.pem").read_text(), server=True)
        api = QueueApi(self.queue.spool, self.queue.presence, self.queue.status)
        self.server = ControlServer(listener, lambda: pins, lambda: self.identity, api)
        threading.Thread(target=self.server.serve, daemon=True).start()

    def wait_until_empty(self) -> None:
        """Wait until home has taken everything."""
        try:
            wait_for(lambda: not self.waits, "an empty queue", 60)
        except AssertionError:
            self.print_log()
            raise

    def print_log(self) -> None:
        """Print what the drain and Postfix say."""
        print(self.home.run("cat", "/run/darkpipe-drain/state.json", check=False))
        print(self.home.run("journalctl", "-b", "-n", "60", "-u", "darkpipe-drain", "-u", "postfix", "-u", "rspamd"))


def make_keys(folder: Path) -> None:
    """Make both ends' keys, as pairing leaves them."""
    for name, own, public in (("home", CONTROL, "home.pem"), ("relay", "relay-own.pem", RELAY)):
        made = subprocess.run(certificate_command(name), capture_output=True, text=True, check=True).stdout
        (folder / own).write_text(made)
        (folder / public).write_text(certificate_of(made))


@contextmanager
def queue_on(relay: Relay, home: Machine, folder: Path) -> Iterator[Queue]:
    """Serve the queue, and tell home of it as pairing does.

    Args:
        folder: for the relay's disk.
    """
    # It would look for an agent that is not there.
    home.run("systemctl", "stop", "darkpipe-pair")
    keys = home.data / "pairing"
    keys.mkdir(mode=0o700, exist_ok=True)
    make_keys(keys)
    peer = Peer(home=HOME_ID, home_epoch=1, relay=RELAY_ID, address=ADDRESSES.relay6)
    (keys / PEER).write_text(peer.model_dump_json())
    (home.data / "queue-keys" / IDENTITIES).write_text(f"{HOME}\n")
    place = (str(ADDRESSES.relay6), QUEUE_PORT)
    listener = relay.client.call(socket.create_server, place, family=socket.AF_INET6)
    queue = Queue(folder, listener, keys, home)
    put_home_end(home, relay.home_end(RELAY_ADDRESS))
    home.run("systemctl", "restart", "darkpipe-drain")
    try:
        yield queue
    finally:
        queue.server.stop()
        listener.close()
