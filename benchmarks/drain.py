"""How fast what waits on the relay comes home, against the same messages handed directly to home's Postfix.

Home is the root file system that images hold, under systemd-nspawn; the relay's queue is at the other end of a real
tunnel. The peer is one client that has the messages in files and gives them to the same Postfix through that tunnel,
one session for each as the drain does: what fetching, opening, the journal and its fsyncs cost is the rest.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from benchmarks.kit.report import Row, show
from builder.archive import Archive
from builder.build import SOURCE, build_root_tar, open_workshop
from builder.cache import Cache
from builder.profile import load_profile
from builder.progress import Stages
from builder.sandbox import remove_tree
from home.drain_letter import Letter, read_letter
from home.hand_over import hand_over
from tests.drain import envelope
from tests.machine.conftest import SEED
from tests.machine.machine import Machine, scratch_folder, unpack, wait_for
from tests.machine.queue import Queue, queue_on
from tests.machine.relay import ADDRESSES, Relay, relay_behind
from tests.machine.relay import RELAY as RELAY_ADDRESS

_SIZES = ((5_000, 100, "5 KB"), (50_000, 50, "50 KB"), (1_000_000, 10, "1 MB"), (25_000_000, 3, "25 MB"))
"""Octets of a message, how many of them in a round, and how that is written."""

_ROUNDS = 3
"""In which both take turns."""

_PORT = 2525
_PATIENCE = 600.0

_TAKEN = b"enabled = false;\n"
"""For greylist.conf: the peer would have to come again, and is judged like the drain in all else."""


def main() -> None:
    """Print a table."""
    cache = Cache(Cache.default().root, remove_tree)
    shop = open_workshop(cache, Archive.from_environment(), Stages())
    root = unpack(build_root_tar(shop, load_profile(SOURCE / "profiles/x64")).path, cache.root / "machine")
    scratch = scratch_folder()
    home = Machine(root, scratch)
    try:
        (home.boot_partition / "darkpipe.yaml").write_text(
            f"{SEED}relays: [{{address: {RELAY_ADDRESS}, offline: tempfail}}]\n"
        )
        home.start()
        home.run("chmod", "0666", "/dev/net/tun")
        home.run("tee", "/data/darkpipe/config/current/rspamd/local.d/greylist.conf", stdin=_TAKEN)
        home.run("systemctl", "restart", "rspamd")
        with (
            tempfile.TemporaryDirectory() as folder,
            relay_behind(home) as relay,
            queue_on(relay, home, Path(folder)) as queue,
        ):
            show([row for size in _SIZES for row in _measure(home, relay, queue, Path(folder), *size)])
    finally:
        home.stop()
        shutil.rmtree(scratch)


def _measure(
    home: Machine, relay: Relay, queue: Queue, folder: Path, octets: int, count: int, name: str
) -> Sequence[Row]:
    message = _message(octets)
    path = folder / "letter"
    path.write_bytes(envelope().octets() + message)
    letter = read_letter(path)
    # rspamd reads much only when the first message comes.
    _directly(home, relay, letter, _ROUNDS)
    pairs = [
        (count / _directly(home, relay, letter, count), _drained(home, queue, message, count)) for _ in range(_ROUNDS)
    ]
    rates, ratios = [drained for _, drained in pairs], [drained / peer for peer, drained in pairs]
    spread = f"{min(rates):.1f} to {max(rates):.1f}"
    return [
        Row(f"{name}: direct", f"{median(peer for peer, _ in pairs):.1f} messages/s"),
        Row(
            f"{name}: drained",
            f"{median(rates):.1f} messages/s ({spread}), {median(rates) * octets / 1e6:.1f} MB/s",
            f"{median(ratios):.2f} of direct ({min(ratios):.2f} to {max(ratios):.2f})",
        ),
    ]


def _directly(home: Machine, relay: Relay, letter: Letter, count: int) -> float:
    """Give the seconds that as many messages take without the drain."""
    seconds = relay.client.call(_hand_over_all, letter, count)
    _wait_until_delivered(home)
    return seconds


def _drained(home: Machine, queue: Queue, message: bytes, count: int) -> float:
    """Give the messages in a second that the drain takes."""
    home.run("systemctl", "stop", "darkpipe-drain")
    for _ in range(count):
        queue.keep(message)
    # From the first item that goes to the last one: home looks every few seconds whether something waits.
    home.run("systemctl", "start", "darkpipe-drain")
    wait_for(lambda: len(queue.waits) < count, "the first message", _PATIENCE)
    began, first = time.monotonic(), count - len(queue.waits)
    while queue.waits:
        time.sleep(0.01)
    seconds = time.monotonic() - began
    _wait_until_delivered(home)
    return (count - first) / seconds


def _message(octets: int) -> bytes:
    head = b"From: Bob <bob@example.net>\r\nTo: alice@example.com\r\nSubject: benchmark\r\n\r\n"
    line = b"What waits on the relay comes home, one line of some seventy after the other.\r\n"
    return head + line * (octets // len(line))


def _hand_over_all(letter: Letter, count: int) -> float:
    """Give a letter to home's Postfix so many times; the seconds that it takes."""
    place = (str(ADDRESSES.home6), _PORT)
    began = time.monotonic()
    for number in range(count):
        replies = hand_over(letter, [0], f"{number:032x}.1", lambda _numbers, _port: None, place)
        assert replies[0].good, replies
    return time.monotonic() - began


def _wait_until_delivered(home: Machine) -> None:
    wait_for(lambda: not home.run("postqueue", "-j").strip(), "an empty queue of Postfix", _PATIENCE)


if __name__ == "__main__":
    main()
