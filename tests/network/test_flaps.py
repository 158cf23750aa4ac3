"""Home goes away and comes back, again and again, while senders send without pause."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.machine.machine import Machine, wait_for
from tests.network.conftest import RELAY_ADDRESS
from tests.network.load import Fate, Load
from tests.network.net import Namespace
from tests.network.relay import Relay

_ALICE = "alice@example.com"


@contextmanager
def sending(world: Namespace) -> Iterator[Load]:
    """Let four sessions of senders send until the end of the block, no faster than the relay lets one client."""
    sources = [f"192.168.77.{number}" for number in range(20, 24)]
    for source in sources:
        world.run("ip", "address", "replace", f"{source}/32", "dev", "lo")
    load = Load(RELAY_ADDRESS, "load@example.net", _ALICE, sources=sources, sessions=4, pause=0.2)
    done = world.start(load.run)
    try:
        yield load
    finally:
        load.stop()
        done.result(timeout=180)
        print(dict(load.fates()), *load.attempts[-5:], sep="\n")


def _kill_postfix(home: Machine, _relay: Relay) -> None:
    """All of it at once, without a word to anybody."""
    home.run("systemctl", "kill", "--signal=SIGKILL", "postfix")


def _kill_tunnel(home: Machine, _relay: Relay) -> None:
    home.run("pkill", "-KILL", "--exact", "wireguard-go")


def _cut(_home: Machine, relay: Relay) -> None:
    """The tunnel's packets vanish for a while."""
    relay.place.run("nft", "insert", "rule", "inet", "darkpipe", "input", "udp", "dport", "51820", "drop")
    wait_for(lambda: relay.home_is("DOWN"), "the relay takes home for away")
    relay.reload_firewall()


def _take_interface(_home: Machine, relay: Relay) -> None:
    relay.place.run("ip", "link", "set", "home0", "down")
    wait_for(lambda: relay.home_is("DOWN"), "the relay takes home for away")
    relay.place.run("ip", "link", "set", "home0", "up")
    for address in (relay.setting.tunnel.addresses.home4, relay.setting.tunnel.addresses.home6):
        relay.place.run("ip", "route", "replace", str(address), "dev", "home0")
    # IPv6 addresses go with the interface (ip-sysctl, keep_addr_on_down).
    own = f"{relay.setting.tunnel.addresses.relay6}/128"
    relay.place.run("ip", "address", "replace", own, "dev", "home0", "nodad")


_WAYS: tuple[Callable[[Machine, Relay], None], ...] = (
    _take_interface,
    _kill_postfix,
    _cut,
    _kill_tunnel,
    *(_take_interface, _kill_tunnel, _take_interface, _cut, _take_interface, _kill_tunnel),
)
"""The first four in each round are all there are; the others are quick."""


def test_no_connection_is_refused_and_nothing_acknowledged_is_lost(
    request: pytest.FixtureRequest, world: Namespace, home: Machine, relay: Relay
) -> None:
    flaps = request.config.getoption("--flaps")
    with sending(world) as load:
        for number, way in zip(range(flaps), itertools.cycle(_WAYS), strict=False):
            before, begun = load.fates()[Fate.ACKNOWLEDGED], time.monotonic()
            way(home, relay)
            wait_for(lambda: relay.home_is("UP"), f"home after flap {number + 1}, {way.__name__}")
            wait_for(lambda: load.fates()[Fate.ACKNOWLEDGED] > before, f"mail after flap {number + 1}")  # noqa: B023
            print(f"{number + 1}: {way.__name__}, back after {time.monotonic() - begun:.1f} s")
    fates = load.fates()
    print(f"{flaps} flaps, {len(load.attempts)} attempts: {dict(fates)}")
    assert [attempt for attempt in load.attempts if attempt.fate in {Fate.REFUSED, Fate.REJECTED}] == []
    assert fates[Fate.ACKNOWLEDGED] > flaps
    # A connection for which HAProxy finds nobody is closed as well, just like one whose process at home is killed.
    counted = relay.statistics()
    assert counted["home-25/BACKEND"]["econ"] == counted["world/FRONTEND"]["dcon"] == "0"
    # Without such there was no test.
    assert fates[Fate.DEFERRED] > 0
    stored = _stored(home, load)
    lost, doubled = judge(load, stored)
    assert lost == set(), _history(home, load, lost)
    unexplained = {one for one in doubled if not _was_delivered_again(home, load, one)}
    assert unexplained == set(), _history(home, load, unexplained)


def _history(home: Machine, load: Load, identifiers: set[str]) -> str:
    """Tell what home has logged about some messages."""
    replies = [attempt.reply for attempt in load.attempts if attempt.identifier in identifiers]
    journal = home.run("journalctl", "--boot", "--no-pager", "--output=short-precise").splitlines()
    queue_ids = [reply.split()[-1] for reply in replies]
    return "\n".join([*replies, *(line for line in journal if any(queue_id in line for queue_id in queue_ids))])


def _was_delivered_again(home: Machine, load: Load, identifier: str) -> bool:
    """Tell whether a Postfix that was killed between Dovecot's "Saved" and its own books has started anew with it.

    That is the duplicate of RFC 1047, for which no two programs with a protocol between them have a remedy.
    """
    return _history(home, load, {identifier}).count("(queue active)") > 1


def judge(load: Load, stored: Counter[str]) -> tuple[set[str], set[str]]:
    """Compare the sender's books with what home has.

    Args:
        stored: how often home has each message.

    Returns:
        The messages that were acknowledged and are not there, and those that are there more often than they were sent.
        Each attempt is a message of its own, so that a sender's retry after a lost reply (RFC 1047) is none of these.
    """
    acknowledged = {attempt.identifier for attempt in load.of(Fate.ACKNOWLEDGED)}
    return acknowledged - set(stored), {identifier for identifier, count in stored.items() if count > 1}


def test_the_books_find_what_is_lost_and_what_is_doubled(world: Namespace, home: Machine) -> None:
    """The control of the test above: messages that are deleted, or copied, behind its back."""
    with sending(world) as load:
        wait_for(lambda: load.fates()[Fate.ACKNOWLEDGED] > 20, "mail")
    first, second, *_ = load.of(Fate.ACKNOWLEDGED)
    assert judge(load, _stored(home, load)) == (set(), set())
    folder = next(name for name in ("INBOX", "Junk") if _search(home, name, first.identifier))
    home.run("doveadm", "expunge", "-u", _ALICE, "mailbox", folder, "header", "subject", first.identifier)
    folder = next(name for name in ("INBOX", "Junk") if _search(home, name, second.identifier))
    home.run("doveadm", "copy", "-u", _ALICE, "Trash", "mailbox", folder, "header", "subject", second.identifier)
    found = judge(load, _subjects(home, load, "INBOX", "Junk", "Trash"))
    assert found == ({first.identifier}, {second.identifier})


def _search(home: Machine, folder: str, identifier: str) -> bool:
    return bool(home.run("doveadm", "search", "-u", _ALICE, "mailbox", folder, "header", "subject", identifier).strip())


def _stored(home: Machine, load: Load) -> Counter[str]:
    """Give how often home has each message, once its queue is empty."""
    deadline = time.monotonic() + 120
    while "Mail queue is empty" not in home.run("postqueue", "-p", check=False):
        assert time.monotonic() < deadline, home.run("postqueue", "-p")
        home.run("postqueue", "-f", check=False)
        time.sleep(1)
    return _subjects(home, load, "INBOX", "Junk")


def _subjects(home: Machine, load: Load, *folders: str) -> Counter[str]:
    found: Counter[str] = Counter()
    for folder in folders:
        listed = home.run("doveadm", "-f", "flow", "fetch", "-u", _ALICE, "hdr.subject", "mailbox", folder)
        found.update(line.partition("=")[2].strip() for line in listed.splitlines() if f"={load.name}-" in line)
    return found
