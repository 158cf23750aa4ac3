"""Home's side of a change of keys: a pure function from what happens to what is done.

Pairing is the first change, away from the bootstrap's keys. Home offers until the relay answers, and then takes turns
between the new keys and those it had until the relay has answered its confirmation: so they meet, whatever was lost.
What is kept is on the disk before anything is done.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TypeAlias

from model.pairing import Confirm, Counter, Offer, turns

RETRY = 5.0
"""Seconds until a request is repeated that got no answer."""

REFUSED = 60.0
"""Seconds until an offer is repeated that was refused."""

SILENT = 900.0
"""Seconds of silence after which home sees whether the relay was built anew and answers to the bootstrap's keys."""

AGAIN = 600.0
"""Seconds from one such look to the next, also while keys change."""

TRIES = 6
"""Times that a paired home goes over to new keys to which its relay never comes, before it gives them up. Each takes a
turn of home (`model.pairing.Turns`): four minutes over WireGuard, 18 over OpenVPN."""


class Which(StrEnum):
    """Keys that the tunnel may use."""

    BASE = "base"
    """Those that hold: the bootstrap's until home is paired."""

    NEXT = "next"
    BOOTSTRAP = "bootstrap"
    """To see whether a relay answers to them that was built anew."""


@dataclass(frozen=True)
class Own:
    """What home makes for itself for an offer.

    Args:
        key: private WireGuard key, or key and certificate for OpenVPN.
        public: what the relay knows it by.
        pem: key and certificate of the control plane.
        certificate: the certificate alone.
    """

    key: str = field(repr=False)
    public: str
    pem: str = field(repr=False)
    certificate: str = field(repr=False)
    home4: str
    relay4: str


@dataclass(frozen=True)
class Keys:
    """What home needs to speak with the relay."""

    own: Own
    relay: Counter


@dataclass(frozen=True)
class Kept:
    """What survives a power cut.

    Args:
        home: home's id.
        epoch: of home.
        base: keys that hold; None for the bootstrap's.
        own: home's half of the next ones; None when no change is under way.
        answer: the relay's half.
        rebuilt: whether a relay has answered to the bootstrap's keys since the paired ones were silent.
        changed: when `base` came, seconds since 1970.
    """

    home: str
    epoch: int = 0
    base: Keys | None = None
    own: Own | None = None
    answer: Counter | None = None
    rebuilt: bool = False
    changed: int = 0

    @property
    def following(self) -> Keys | None:
        """The next keys, once both halves are known."""
        return Keys(self.own, self.answer) if self.own and self.answer else None


@dataclass(frozen=True)
class State:
    """What there is at one moment.

    Args:
        using: keys that the tunnel uses, and since when.
        heard: when the tunnel was up for the last time.
        looked: when home last began to look for a relay that was built anew.
        wait: until when no request is sent.
        trouble: why the latest request failed; empty when it did not.
        refused: whether it was the relay that said so.
        tries: how often the relay, at the keys that hold, has been heard about the next ones.
        ended: when home last gave next ones up to which the relay never came; None for never.
    """

    kept: Kept
    using: Which = Which.BASE
    since: float = 0.0
    heard: float = 0.0
    looked: float = -math.inf
    wait: float = 0.0
    trouble: str = ""
    refused: bool = False
    tries: int = 0
    ended: float | None = None


@dataclass(frozen=True)
class Start:
    """The service has started."""

    now: float


@dataclass(frozen=True)
class Tick:
    """Time has passed. Moments are seconds of a clock that only runs forward.

    Args:
        up: whether the tunnel is up, with the keys that are in use.
    """

    now: float
    up: bool


@dataclass(frozen=True)
class Change:
    """Begin a change of keys: pairing, a rotation, or other addresses. While one is under way, nothing happens."""

    now: float
    own: Own


@dataclass(frozen=True)
class Look:
    """The owner says that the relay was built anew: home does not wait for a long silence to see whether it was."""

    now: float


@dataclass(frozen=True)
class Claim:
    """The owner agrees that a relay is claimed that was built anew, or has another one, with another bootstrap."""

    now: float
    own: Own


@dataclass(frozen=True)
class Restored:
    """The owner says that this home was restored from a backup, and counts from now on."""

    now: float
    own: Own


@dataclass(frozen=True)
class Answered:
    """The relay has answered the offer."""

    now: float
    counter: Counter


@dataclass(frozen=True)
class Done:
    """The relay has answered the confirmation.

    Args:
        clock: seconds since 1970.
    """

    now: float
    clock: int


@dataclass(frozen=True)
class Failed:
    """A request has got no answer, or was refused.

    Args:
        trouble: what a person is told.
        refused: whether it was refused.
        other: an offer with other addresses, if that may help.
    """

    now: float
    trouble: str
    refused: bool = False
    other: Own | None = None


Event: TypeAlias = Start | Tick | Change | Look | Claim | Restored | Answered | Done | Failed


@dataclass(frozen=True)
class Use:
    """Let the tunnel use these keys from now on."""

    which: Which


@dataclass(frozen=True)
class Ask:
    """Send the offer."""

    own: Own


@dataclass(frozen=True)
class AskToConfirm:
    """Send the confirmation."""

    confirm: Confirm


@dataclass(frozen=True)
class Publish:
    """Let home's other programs see the base's certificates, and the ids."""


@dataclass(frozen=True)
class Tell:
    """Write a line for a person into the log."""

    text: str


Action: TypeAlias = Use | Ask | AskToConfirm | Publish | Tell


def step(state: State, event: Event) -> tuple[State, tuple[Action, ...]]:  # noqa: C901, PLR0911  one for each event
    """Say what an event leads to.

    Returns:
        The next state, whose `kept` is to be on the disk before the actions, and these in their order.
    """
    kept = state.kept
    match event:
        case Start(now):
            return State(kept, since=now, heard=now), (Use(Which.BASE), Publish())
        case Tick(now, up):
            return _tick(replace(state, heard=now) if up else state, now, up=up)
        case Change(now, own):
            if kept.own is not None:
                return state, ()
            begun = replace(state, kept=replace(kept, own=own, answer=None), wait=now, trouble="", tries=0, ended=None)
            return begun, (Publish(),)
        case Look(now):
            return _look(state, now) if kept.base else (state, ())
        case Claim(now, own):
            fresh = replace(kept, base=None, own=own, answer=None, rebuilt=False, changed=0)
            return State(fresh, since=now, heard=now), (Use(Which.BASE), Publish())
        case Restored(now, own):
            raised = replace(kept, epoch=kept.epoch + 1, own=own, answer=None)
            # An offer of before the restoration may have been answered; whoever was lost knows its keys.
            return State(raised, since=now, heard=now), (Use(Which.BASE), Publish())
        case Answered(now, counter):
            return _answered(state, now, counter)
        case Done(now, clock):
            return _done(state, now, clock)
        case Failed():
            return _failed(state, event)


def _tick(state: State, now: float, *, up: bool) -> tuple[State, tuple[Action, ...]]:  # noqa: PLR0911  one for each case
    if state.using is Which.BOOTSTRAP:
        return _probe(state, now, up=up)
    kept = state.kept
    if up and kept.rebuilt and state.using is Which.BASE and kept.base:
        return replace(state, kept=replace(kept, rebuilt=False)), (Tell("the relay answers to the paired keys again"),)
    if kept.base and now - state.heard >= SILENT and now - state.looked >= AGAIN:
        return _look(state, now)
    if kept.own is None:
        return state, ()
    turn = turns(kept.own.public).home
    if state.using is Which.NEXT:
        if now - state.since >= turn:
            return replace(state, using=Which.BASE, since=now), (Use(Which.BASE),)
        if up and now >= state.wait:
            return replace(state, wait=now + RETRY), (AskToConfirm(Confirm(kept.own.public)),)
        return state, ()
    if kept.answer and now - state.since >= turn:
        # The relay may have heard the confirmation, and home not its answer: then it is there for good.
        return replace(state, using=Which.NEXT, since=now, wait=now), (Use(Which.NEXT),)
    if up and now >= state.wait:
        return replace(state, wait=now + RETRY), (Ask(kept.own),)
    return state, ()


def _look(state: State, now: float) -> tuple[State, tuple[Action, ...]]:
    return replace(state, using=Which.BOOTSTRAP, since=now, looked=now), (Use(Which.BOOTSTRAP),)


def _probe(state: State, now: float, *, up: bool) -> tuple[State, tuple[Action, ...]]:
    if up:
        told = Tell("a relay answers to the bootstrap's keys: it was built anew. `darkpipe pair --again` claims it")
        found = replace(state, kept=replace(state.kept, rebuilt=True), using=Which.BASE, since=now)
        return found, (Use(Which.BASE), told)
    base = state.kept.base
    if base is None or now - state.since >= turns(base.own.public).look:
        return replace(state, using=Which.BASE, since=now), (Use(Which.BASE),)
    return state, ()


def _answered(state: State, now: float, counter: Counter) -> tuple[State, tuple[Action, ...]]:
    kept = state.kept
    if kept.own is None or state.using is not Which.BASE:
        return state, ()  # an answer that comes too late
    if kept.base and counter.relay != kept.base.relay.relay:
        changed = f"found relay {counter.relay}, expected {kept.base.relay.relay}"
        return replace(state, kept=replace(kept, own=None, answer=None), trouble=changed), (Tell(changed),)
    if kept.base and state.tries >= TRIES:
        return _end(state, now)
    kept = replace(kept, answer=counter)
    next_try = replace(state, kept=kept, using=Which.NEXT, since=now, wait=now, trouble="", refused=False)
    return replace(next_try, tries=state.tries + 1), (Publish(), Use(Which.NEXT))


def _end(state: State, now: float) -> tuple[State, tuple[Action, ...]]:
    """Give the next keys up.

    Only when the relay has just been heard at those that hold: it could otherwise have heard a confirmation whose
    answer was lost, and be at the next ones for good. Without a further confirmation it comes back from them.
    """
    kept = replace(state.kept, own=None, answer=None)
    return replace(state, kept=kept, trouble=_ENDED, refused=False, ended=now), (Publish(), Tell(_ENDED))


_ENDED = (
    f"the keys were not changed: the relay has answered that it would, {TRIES} times, and never came to the new ones. "
    "Both go on with the keys that they have. The relay's log tells why: journalctl -u darkpipe-agent. Home tries "
    "again a day later; `darkpipe relay rotate-keys` does so at once"
)


def _done(state: State, now: float, clock: int) -> tuple[State, tuple[Action, ...]]:
    keys = state.kept.following
    if keys is None or state.using is not Which.NEXT:
        return state, ()
    kept = replace(state.kept, base=keys, own=None, answer=None, rebuilt=False, changed=clock)
    return State(kept, since=now, heard=now), (Publish(), Tell("home and relay have changed to new keys"))


def _failed(state: State, event: Failed) -> tuple[State, tuple[Action, ...]]:
    kept = state.kept
    told = replace(state, trouble=event.trouble, refused=event.refused)
    tell: tuple[Action, ...] = (Tell(event.trouble),) if event.trouble != state.trouble else ()
    if not event.refused or kept.own is None or state.using is not Which.BASE:
        return told, tell
    if event.other:
        # Others are good at once, or the relay has its reasons.
        wait = event.now + (REFUSED if state.refused else 0)
        other = replace(told, kept=replace(kept, own=event.other, answer=None), wait=wait, tries=0)
        return other, (*tell, Publish())
    if kept.base and not kept.answer:
        # A paired home goes on with what it has; a rotation that was refused is tried anew another day.
        return replace(told, kept=replace(kept, own=None)), (*tell, Publish())
    told = replace(told, tries=told.tries + 1)
    if kept.base and told.tries >= TRIES:
        return _end(told, event.now)
    return replace(told, wait=event.now + REFUSED), tell


def offer_of(kept: Kept, own: Own, clock: int) -> Offer:
    """Write the offer that a change begins with.

    Args:
        clock: home's, seconds since 1970.
    """
    return Offer(kept.home, kept.epoch, own.public, own.certificate, own.home4, own.relay4, clock)
