"""When home does what about its tunnel: a pure function from what is seen to what is done.

WireGuard keeps a session alive by itself, and follows a home whose address changes. What it does not do is look a name
up again, or try the relay's other address: this does, whenever no handshake came in time. And a relay that has started
anew knows no session and cannot call a home without a fixed address: this calls again when nothing is heard of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_address
from itertools import zip_longest
from typing import TypeAlias

STALE = 135.0
"""Seconds after which a handshake is too old for a tunnel that works. With a keepalive every 25 s there is one every
120 s (REKEY_AFTER_TIME, WireGuard's paper §6.1), and three more attempts fit until then (REKEY_TIMEOUT, 5 s)."""

TRY = 10.0
"""Seconds that each address of the relay is given: two attempts at a handshake."""

ROUND = 15.0
"""Least seconds between two look-ups of the relay's name."""

QUIET = 15.0
"""Seconds of silence after which home calls again. A relay that works asks every second whether mail is taken."""


@dataclass(frozen=True)
class Pace:
    """How patient home is with a transport, in seconds: see STALE, TRY and QUIET."""

    stale: float = STALE
    each: float = TRY
    quiet: float = QUIET


WIREGUARD = Pace()


@dataclass(frozen=True)
class Seen:
    """What there is at one moment.

    Args:
        now: seconds of a clock that only runs forward.
        link: whether the interface is there and answers.
        handshake: WireGuard's time stamp of the latest handshake, 0 for none. Nothing but a change of it counts: it is
            of a clock that may jump.
        received: octets that have come from the relay.
        found: addresses that a look-up has given since the last moment, none when it failed; None when there was none.
    """

    now: float
    link: bool
    handshake: int = 0
    received: int = 0
    found: Sequence[str] | None = None


@dataclass(frozen=True)
class State:
    """What is remembered from moment to moment.

    Args:
        since: when the tunnel came up or went down.
        heard: when the latest handshake was seen; None for never.
        received: octets that had come from the relay, and since when it is so many.
        addresses: the relay's, in the order in which they are tried.
        tried: how many of them had their turn since the last look-up.
        endpoint: the address that WireGuard was pointed at, and when.
        asking: whether a look-up is under way, and when the last one began.
    """

    since: float
    up: bool = False
    handshake: int = 0
    heard: float | None = None
    received: int = 0
    quiet: float = -math.inf
    addresses: tuple[str, ...] = ()
    tried: int = 0
    endpoint: str | None = None
    pointed: float = -math.inf
    asking: bool = False
    asked: float = -math.inf


@dataclass(frozen=True)
class Make:
    """Make the interface, in the place of whatever has its name."""


@dataclass(frozen=True)
class Resolve:
    """Look the relay's name up."""


@dataclass(frozen=True)
class Point:
    """Forget the session with the relay, if there is one, and begin a handshake at an address."""

    address: str


Action: TypeAlias = Make | Resolve | Point


def decide(state: State, seen: Seen, pace: Pace = WIREGUARD) -> tuple[State, tuple[Action, ...]]:
    """Say what is to be done now.

    Returns:
        What to remember, and the actions in their order.
    """
    now = seen.now
    state = _with_answer(state, seen)
    if not seen.link:
        # A new interface knows nothing of sessions; where the relay was is still the best guess.
        lost = replace(state, handshake=0, heard=None, received=0, endpoint=None, pointed=-math.inf, tried=0)
        return _judged(lost, now, pace), (Make(),)
    if seen.handshake not in {0, state.handshake}:
        state = replace(state, handshake=seen.handshake, heard=now)
    if seen.received != state.received:
        state = replace(state, received=seen.received, quiet=now)
    state = _judged(state, now, pace)
    if state.up:
        # Should it go down again, every address gets its turn, the good one first.
        state = replace(state, tried=0)
        if state.endpoint and now - max(state.quiet, state.pointed) >= pace.quiet:
            return replace(state, pointed=now), (Point(state.endpoint),)
        return state, ()
    waited = now - state.pointed >= pace.each
    if state.tried < len(state.addresses) and (waited or state.endpoint not in state.addresses):
        address = state.addresses[state.tried]
        return replace(state, tried=state.tried + 1, endpoint=address, pointed=now), (Point(address),)
    if state.tried >= len(state.addresses) and not state.asking and now - state.asked >= ROUND:
        return replace(state, asking=True, asked=now), (Resolve(),)
    return state, ()


def in_turn(addresses: Iterable[str]) -> tuple[str, ...]:
    """Order addresses so that the families alternate, each in the order that it came in (RFC 8305 §4)."""
    distinct = list(dict.fromkeys(addresses))
    if not distinct:
        return ()
    first = ip_address(distinct[0]).version
    families = (
        [address for address in distinct if ip_address(address).version == first],
        [address for address in distinct if ip_address(address).version != first],
    )
    return tuple(address for pair in zip_longest(*families) for address in pair if address)


def _with_answer(state: State, seen: Seen) -> State:
    if seen.found is None:
        return state
    # Without an answer the relay is looked for where it was: often it is the home's own network that is away.
    addresses = in_turn(seen.found) or state.addresses
    return replace(state, addresses=addresses, tried=0, asking=False)


def _judged(state: State, now: float, pace: Pace) -> State:
    up = state.heard is not None and now - state.heard <= pace.stale
    return state if up == state.up else replace(state, up=up, since=now)
