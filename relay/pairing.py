"""The relay's side of a change of keys: a pure function from what happens to what is done.

Pairing is the first change, away from the bootstrap's keys. The relay answers an offer, uses the new keys for a while,
and goes back to what it had unless home confirms in that time. What is kept is on the disk before anything is done.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from ipaddress import IPv4Address, IPv4Network
from typing import TypeAlias

from model.control import Message
from model.openvpn import is_fingerprint
from model.pairing import CLOCKS_APART, Confirm, Counter, Offer, turns

DELAY = 2.0
"""Seconds between an answer and the change: the answer has to get home in the old tunnel."""

LAPSE = 600.0
"""Seconds after which a home that has offered and never confirmed no longer keeps another one off."""


@dataclass(frozen=True)
class Keys:
    """What the relay needs to speak with home.

    Args:
        own_key: private WireGuard key, or key and certificate for OpenVPN.
        own_public: what home knows it by.
        own_pem: key and certificate of the control plane; empty in the bootstrap.
        home_key: what home is known by: a public WireGuard key, or a fingerprint (model/openvpn.py).
        home_certificate: PEM; empty in the bootstrap.
    """

    own_key: str = field(repr=False)
    own_public: str
    own_pem: str = field(repr=False)
    home_key: str
    home_certificate: str = field(repr=False)
    home4: str
    relay4: str


@dataclass(frozen=True)
class Made:
    """What the relay makes for itself when it answers an offer.

    Args:
        key: private WireGuard key, or key and certificate for OpenVPN.
        public: what home knows it by.
        pem: key and certificate of the control plane.
        certificate: the certificate alone.
    """

    key: str = field(repr=False)
    public: str
    pem: str = field(repr=False)
    certificate: str = field(repr=False)


@dataclass(frozen=True)
class Kept:
    """What survives a power cut.

    Args:
        relay: the relay's id.
        base: keys that hold: the bootstrap's until the relay is paired.
        home: id of the home that it belongs to, or that has made an offer; empty for none.
        epoch: of home; homes with a lower one are fenced.
        paired: whether `base` are keys that home has confirmed.
        next: keys that were offered.
        answer: what was answered to that.
        former: home's certificate before the latest change, until home has been heard with the new one.
    """

    relay: str
    base: Keys
    home: str = ""
    epoch: int = 0
    paired: bool = False
    next: Keys | None = None
    answer: Counter | None = None
    former: str = field(default="", repr=False)


@dataclass(frozen=True)
class State:
    """What there is at one moment.

    Args:
        trying: whether the next keys are in use.
        change: when they come into use; None when that is not planned.
        until: until when they are in use without a confirmation.
        offered: when the latest offer came.
    """

    kept: Kept
    trying: bool = False
    change: float | None = None
    until: float = 0.0
    offered: float | None = None

    @property
    def in_use(self) -> Keys:
        """The keys that are in use."""
        return self.kept.next if self.trying and self.kept.next else self.kept.base


@dataclass(frozen=True)
class Start:
    """The agent has started."""


@dataclass(frozen=True)
class Tick:
    """Time has passed. Moments are seconds of a clock that only runs forward."""

    now: float


@dataclass(frozen=True)
class Offered:
    """Home has offered, with the keys that are in use.

    Args:
        clock: the relay's, seconds since 1970.
        networks: that the relay is in, without the tunnel's.
        made: used when the offer is a new one.
    """

    now: float
    clock: int
    offer: Offer
    networks: Sequence[IPv4Network]
    made: Made


@dataclass(frozen=True)
class Confirmed:
    """Home has confirmed, in the tunnel and under the certificates of the keys that are in use."""

    confirm: Confirm


@dataclass(frozen=True)
class Heard:
    """Home has asked for something else, under certificates that were confirmed."""

    epoch: int


Event: TypeAlias = Start | Tick | Offered | Confirmed | Heard


@dataclass(frozen=True)
class Use:
    """Use these keys from now on, and hang up on all who came with others."""

    keys: Keys


@dataclass(frozen=True)
class Settle:
    """Let the base's keys hold after the next start, too, and remove whatever there is of others."""


@dataclass(frozen=True)
class Publish:
    """Let the relay's other programs see the base's certificates, home's id and its epoch."""


@dataclass(frozen=True)
class Answer:
    """Answer home."""

    message: Message


@dataclass(frozen=True)
class Refuse:
    """Refuse, with a sentence for the person at home."""

    status: HTTPStatus
    problem: str


Action: TypeAlias = Use | Settle | Publish | Answer | Refuse


def step(state: State, event: Event) -> tuple[State, tuple[Action, ...]]:
    """Say what an event leads to.

    Returns:
        The next state, whose `kept` is to be on the disk before the actions, and these in their order.
    """
    kept = state.kept
    match event:
        case Start():
            return State(kept), standing(State(kept))
        case Tick(now):
            return _tick(state, now)
        case Offered():
            return _offered(state, event)
        case Confirmed(confirm):
            return _confirmed(state, confirm)
        case Heard(epoch):
            if not kept.paired or state.trying or (not kept.former and epoch <= kept.epoch):
                return state, ()
            return replace(state, kept=replace(kept, former="", epoch=max(epoch, kept.epoch))), (Publish(),)


def standing(state: State) -> tuple[Action, ...]:
    """Give what makes the relay what a state says, whatever was done of it before."""
    settled: tuple[Action, ...] = (Settle(), Publish()) if state.kept.paired else ()
    return Use(state.in_use), *settled


def _tick(state: State, now: float) -> tuple[State, tuple[Action, ...]]:
    if state.change is not None and now >= state.change and state.kept.next:
        until = now + turns(state.kept.next.own_public).relay
        return replace(state, trying=True, change=None, until=until), (Use(state.kept.next),)
    if state.trying and now >= state.until:
        return replace(state, trying=False), (Use(state.kept.base),)
    return state, ()


def _offered(state: State, event: Offered) -> tuple[State, tuple[Action, ...]]:
    kept, offer, made = state.kept, event.offer, event.made
    if refused := _objection(state, event) or _other_transport(kept, offer):
        return state, (refused,)
    planned = replace(state, change=event.now + DELAY, offered=event.now)
    if kept.next and kept.answer and kept.home == offer.home and _is_same(kept.next, offer):
        return planned, (Answer(kept.answer),)
    following = Keys(
        made.key, made.public, made.pem, offer.key, offer.certificate, home4=offer.home4, relay4=offer.relay4
    )
    answer = Counter(kept.relay, made.public, made.certificate)
    kept = replace(kept, home=offer.home, epoch=offer.epoch, next=following, answer=answer)
    return replace(planned, kept=kept), (Answer(answer),)


def _is_same(keys: Keys, offer: Offer) -> bool:
    offered = (offer.key, offer.certificate, offer.home4, offer.relay4)
    return (keys.home_key, keys.home_certificate, keys.home4, keys.relay4) == offered


def _objection(state: State, event: Offered) -> Refuse | None:
    kept, offer = state.kept, event.offer
    if state.trying:
        return Refuse(HTTPStatus.CONFLICT, "the relay is just changing its keys; the next try will be taken")
    if kept.home not in {"", offer.home} and (kept.paired or _is_recent(state, event.now)):
        return Refuse(
            HTTPStatus.FORBIDDEN,
            "another home has claimed this relay, with the same user-data. If it is not yours, destroy the relay at "
            "its provider, and make new user-data; if it is a device that you no longer use, switch it off, and wait "
            f"{LAPSE / 60:.0f} minutes",
        )
    if offer.home == kept.home and offer.epoch < kept.epoch:
        return Refuse(
            HTTPStatus.CONFLICT,
            f"this home has epoch {offer.epoch}, and the relay serves epoch {kept.epoch}: a device that was restored "
            "from this one's backup has taken its place",
        )
    if abs(offer.clock - event.clock) > CLOCKS_APART:
        return Refuse(
            HTTPStatus.UNPROCESSABLE_ENTITY,
            f"the clocks of home and relay are {abs(offer.clock - event.clock)} seconds apart, expected "
            f"{CLOCKS_APART} at most. Home asks its time servers by itself (`darkpipe status`); on the relay "
            "`timedatectl` shows the clock",
        )
    clash = [
        network for network in event.networks for one in (offer.home4, offer.relay4) if IPv4Address(one) in network
    ]
    if clash:
        return Refuse(
            HTTPStatus.PRECONDITION_FAILED,
            f"the addresses {offer.home4} and {offer.relay4} are in the relay's own network {clash[0]}",
        )
    return None


def _other_transport(kept: Kept, offer: Offer) -> Refuse | None:
    if is_fingerprint(offer.key) == is_fingerprint(kept.base.home_key):
        return None
    return Refuse(
        HTTPStatus.CONFLICT,
        "home and relay have different transports: make the user-data and the device's image from one site.yaml",
    )


def _is_recent(state: State, now: float) -> bool:
    return state.offered is not None and now - state.offered < LAPSE


def _confirmed(state: State, confirm: Confirm) -> tuple[State, tuple[Action, ...]]:
    kept = state.kept
    if state.trying and kept.next and confirm.key == kept.next.home_key:
        former = kept.base.home_certificate if kept.paired else ""
        kept = replace(kept, base=kept.next, next=None, answer=None, paired=True, former=former)
        return State(kept), (Settle(), Publish(), Answer(confirm))
    if kept.paired and not state.trying and confirm.key == kept.base.home_key:
        return state, (Answer(confirm),)
    return state, (Refuse(HTTPStatus.CONFLICT, "the relay is not at the keys that home confirms"),)
