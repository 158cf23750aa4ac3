"""Home, relay, and what is between them: for the tests of pairing, without sockets, clocks and disks.

Each side has a disk, a state in memory that a power cut wipes, and the real machine. What an event leads to is written
to the disk first, and then done; `hasty` does it the other way round, which is the fault that the tests have to find.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from functools import cache
from http import HTTPStatus
from ipaddress import IPv4Network

from home import pairing as home
from home import pairing_file as home_file
from model.pairing import Confirm, Counter, Offer, turns
from model.tunnel import HomeEnd
from relay import pairing as relay
from relay import pairing_file as relay_file
from relay.pairing import Refuse
from tests.unit.certificates import some_certificates

_numbers = itertools.count(1)
_ZERO = "A" * 43 + "="


def _key(number: int, *, mtls: bool) -> tuple[str, str]:
    """Give a pair of keys: here, the public half is the private one written otherwise."""
    text = f"{number:042d}"
    digits = f"{number:064X}"
    fingerprint = ":".join(digits[at : at + 2] for at in range(0, 64, 2))
    return f"{text}A=", fingerprint if mtls else f"{text}E="


@cache
def bootstrap_keys(*, mtls: bool) -> tuple[str, str, str, str]:
    """Give home's and the relay's keys of the bootstrap: private, public, private, public."""
    return *_key(next(_numbers), mtls=mtls), *_key(next(_numbers), mtls=mtls)


@cache
def bootstrap_end(home4: str = "10.200.0.1", relay4: str = "10.200.0.0") -> HomeEnd:
    """Give home's half of the bootstrap; what is kept of it is the same in both transports."""
    own, _, _, relay_public = bootstrap_keys(mtls=False)
    return HomeEnd.model_validate(
        {
            "private_key": own,
            "relay_key": relay_public,
            "relay": "mx.example.com",
            "addresses": {"home4": home4, "relay4": relay4, "home6": "fd99::2", "relay6": "fd99::1"},
        }
    )


def fresh_relay(relay_id: str = "b" * 32, *, mtls: bool = False) -> relay.Kept:
    """Give what a relay knows that its user-data have just made."""
    _, home_public, own, public = bootstrap_keys(mtls=mtls)
    return relay.Kept(relay_id, relay.Keys(own, public, "", home_public, "", "10.200.0.1", "10.200.0.0"))


def calm(public: str) -> int:
    """Give the seconds without a fault in which both have met, whatever was before.

    Args:
        public: what one of the ends is known by.
    """
    return int(10 * turns(public).home)


class PowerCut(Exception):
    """Here the power went."""


@dataclass
class Cut:
    """When the power goes: after so many steps of the disk and of actions; never when negative."""

    after: int = -1

    def step(self) -> None:
        if self.after == 0:
            self.after = -1
            raise PowerCut
        self.after -= 1 if self.after > 0 else 0


@dataclass
class RelaySide:
    """A relay."""

    disk: str = ""
    written: relay.Kept | None = None
    hasty: bool = False
    state: relay.State | None = None
    in_use: relay.Keys | None = None
    published: tuple[str, int] = ("", 0)
    cut: Cut = field(default_factory=Cut)
    relay_id: str = ""
    mtls: bool = False
    stays: bool = False
    """Whether it answers offers and never comes to the keys: its tunnel does not take them."""

    def boot(self, now: float) -> None:
        if not self.disk:
            self.relay_id = self.relay_id or f"{next(_numbers):032x}"
            self.disk = relay_file.dump(fresh_relay(self.relay_id, mtls=self.mtls))
        self.written = relay_file.load(self.disk)
        self.state = relay.State(self.written)
        self.happen(relay.Start())
        if self.is_on:  # the power may have gone again
            self.happen(relay.Tick(now))

    def die(self) -> None:
        self.state = self.in_use = None

    @property
    def is_on(self) -> bool:
        return self.state is not None

    def happen(self, event: relay.Event) -> Counter | Confirm | Refuse | None:
        """Let an event happen; gives what home is answered."""
        assert self.state
        self.state, actions = relay.step(self.state, event)
        answer = None
        try:
            if not self.hasty:
                self._persist()
            for action in actions:
                self.cut.step()
                match action:
                    case relay.Use(keys) if not self.stays or keys == self.state.kept.base:
                        self.in_use = keys
                    case relay.Publish():
                        self.published = (self.state.kept.home, self.state.kept.epoch)
                    case relay.Answer(message):
                        assert isinstance(message, Counter | Confirm)
                        answer = message
                    case Refuse():
                        return action
            if self.hasty:
                # What is answered is on its way before the disk has it.
                try:
                    self._persist()
                except PowerCut:
                    self.die()
        except PowerCut:
            self.die()
            return None
        return answer

    def _persist(self) -> None:
        assert self.state
        if self.state.kept != self.written:
            self.cut.step()
            self.disk, self.written = relay_file.dump(self.state.kept), self.state.kept


@dataclass
class HomeSide:
    """A home."""

    disk: str = ""
    written: home.Kept | None = None
    state: home.State | None = None
    cut: Cut = field(default_factory=Cut)
    wishes: list[home.Action] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    claims: int = 0
    mtls: bool = False

    def boot(self, now: float) -> None:
        if not self.disk:
            self.disk = home_file.dump(home_file.Document(bootstrap_end(), home.Kept(f"{next(_numbers):032x}")))
        self.written = home_file.load(self.disk).kept
        self.state = home.State(self.written)
        self.happen(home.Start(now))
        if self.is_on and self.state.kept.base is None:
            self.happen(home.Change(now, make_own(mtls=self.mtls)))

    def die(self) -> None:
        self.state, self.wishes = None, []

    @property
    def is_on(self) -> bool:
        return self.state is not None

    def happen(self, event: home.Event) -> None:
        assert self.state
        self.state, actions = home.step(self.state, event)
        try:
            kept = self.state.kept
            if kept != self.written:
                self.cut.step()
                self.disk, self.written = home_file.dump(home_file.Document(bootstrap_end(), kept)), kept
            for action in actions:
                self.cut.step()
                if isinstance(action, home.Ask | home.AskToConfirm):
                    self.wishes.append(action)
                if isinstance(action, home.Tell):
                    self.told.append(action.text)
        except PowerCut:
            self.die()

    @property
    def keys(self) -> tuple[str, str]:
        """Home's own public key and the relay's, as the tunnel uses them."""
        assert self.state
        kept = self.state.kept
        keys = {home.Which.BASE: kept.base, home.Which.NEXT: kept.following, home.Which.BOOTSTRAP: None}[
            self.state.using
        ]
        _, home_public, _, relay_public = bootstrap_keys(mtls=self.mtls)
        return (keys.own.public, keys.relay.key) if keys else (home_public, relay_public)

    @property
    def certificates(self) -> tuple[str, str]:
        """Home's own certificate and the relay's that it expects; empty in the bootstrap."""
        assert self.state
        kept = self.state.kept
        keys = kept.following if self.state.using is home.Which.NEXT else kept.base
        return (keys.own.certificate, keys.relay.certificate) if keys else ("", "")


def make_own(home4: str = "10.200.0.1", relay4: str = "10.200.0.0", *, mtls: bool = False) -> home.Own:
    """Make what home makes for an offer."""
    key, public = _key(next(_numbers), mtls=mtls)
    pem, certificate = some_certificates()[next(_numbers) % 4]
    return home.Own(key, public, pem, certificate, home4, relay4)


@dataclass
class World:
    """One relay, and homes that have its bootstrap."""

    relay: RelaySide
    homes: list[HomeSide]
    now: float = 1_000_000.0
    clock_skew: int = 0
    lose_requests: int = 0
    lose_answers: int = 0
    linked: bool = True
    slow: float = 0.0
    """Seconds from the moment in which both use keys that belong together to that in which the tunnel is up."""

    met: dict[tuple[str, str], float] = field(default_factory=dict)
    """Since when both have been using keys; by these."""

    sent: list[tuple[HomeSide, tuple[str, str], Offer | Confirm]] = field(default_factory=list)

    @classmethod
    def make(cls, homes: int = 1, *, hasty: bool = False, mtls: bool = False) -> World:
        world = cls(RelaySide(hasty=hasty, mtls=mtls), [HomeSide(mtls=mtls) for _ in range(homes)])
        world.relay.boot(world.now)
        for one in world.homes:
            one.boot(world.now)
        return world

    def is_up(self, one: HomeSide) -> bool:
        """Tell whether the tunnel of a home is up: both use keys that belong together."""
        return self.now - self.met.get(one.keys, self.now) >= self.slow if self._meet(one) else False

    def _meet(self, one: HomeSide) -> bool:
        used = self.relay.in_use
        return bool(self.linked and one.state and used and one.keys == (used.home_key, used.own_public))

    def wait(self, seconds: float, step: float = 1.0) -> None:
        """Let time pass."""
        end = self.now + seconds
        while self.now < end:
            self.now += step
            if self.relay.state:
                self.relay.happen(relay.Tick(self.now))
            meeting = {one.keys for one in self.homes if self._meet(one)}
            self.met = {keys: self.met.get(keys, self.now) for keys in meeting}
            for one in self.homes:
                if one.state:
                    one.happen(home.Tick(self.now, self.is_up(one)))
                while one.state and one.wishes:
                    self._ask(one, one.wishes.pop(0))

    def deliver_again(self, number: int) -> None:
        """Deliver a request once more that has been sent before, as far as the tunnel that it was in is still there."""
        if not self.sent:
            return
        one, certificates, message = self.sent[number % len(self.sent)]
        if self.is_up(one) and one.certificates == certificates:
            self._serve(message, certificates)

    def _ask(self, one: HomeSide, wish: home.Action) -> None:
        assert one.state
        kept = one.state.kept
        message: Offer | Confirm
        if isinstance(wish, home.Ask):
            message = home.offer_of(kept, wish.own, int(self.now) + self.clock_skew)
        else:
            assert isinstance(wish, home.AskToConfirm)
            message = wish.confirm
        certificates = one.certificates
        self.sent.append((one, certificates, message))
        answer = None
        if self.is_up(one):
            if self.lose_requests:
                self.lose_requests -= 1
            else:
                answer = self._serve(message, certificates)
        if answer and self.lose_answers:
            self.lose_answers -= 1
            answer = None
        if not one.is_on:
            return
        match answer:
            case None:
                one.happen(home.Failed(self.now, "no answer"))
            case Counter():
                one.happen(home.Answered(self.now, answer))
            case Confirm():
                one.happen(home.Done(self.now, int(self.now)))
            case Refuse(status, problem):
                clash = (
                    make_own("10.201.0.1", "10.201.0.0", mtls=one.mtls)
                    if status == HTTPStatus.PRECONDITION_FAILED
                    else None
                )
                refused = isinstance(message, Offer)
                one.happen(home.Failed(self.now, problem, refused=refused, other=clash))

    def _serve(self, message: Offer | Confirm, certificates: tuple[str, str]) -> Counter | Confirm | Refuse | None:
        """Give a request to the relay, which knows who asks by tunnel and certificates."""
        used = self.relay.in_use
        if self.relay.state is None or used is None:
            return None
        own, expected = certificates
        shown = _certificate(used.own_pem)
        if (own, expected) != (used.home_certificate, shown):
            return None  # TLS
        if isinstance(message, Confirm):
            return self.relay.happen(relay.Confirmed(message)) if own else None
        made = make_own(mtls=self.relay.mtls)
        event = relay.Offered(
            self.now,
            int(self.now),
            Offer.read(message.to_json()),
            [IPv4Network("192.0.2.0/24")],
            relay.Made(made.key, made.public, made.pem, made.certificate),
        )
        return self.relay.happen(event)


def are_paired(world: World, one: HomeSide, *, spotless: bool = True) -> bool:
    """Tell whether home and relay hold the same keys, and use them.

    Args:
        spotless: whether the relay must have no other keys left. An old offer that comes again lets it try some, and
            it goes back to those that hold.
    """
    ours, theirs = one.state, world.relay.state
    if not ours or not theirs or not ours.kept.base or ours.kept.own or (spotless and theirs.kept.next):
        return False
    keys = (ours.kept.base.own.public, ours.kept.base.relay.key)
    same = keys == (theirs.kept.base.home_key, theirs.kept.base.own_public)
    return theirs.kept.paired and same and world.is_up(one) and theirs.kept.home == ours.kept.home


def _certificate(pem: str) -> str:
    return next((certificate for made, certificate in some_certificates() if made == pem), "")
