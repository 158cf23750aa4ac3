"""Draining the relay's queue: what to do next, decided from what is known. Nothing here acts.

An item is fetched, opened and handed over to home's own mail server. Each of its recipients has a fate of its own; only
when all of them are final, and that is written down, may the relay forget the item. Whatever is cut off at whichever
step is taken up again from what is written: the one thing that the writing cannot tell is whether a message was taken
whose last octet had gone out and whose reply never came. Then somebody has to look (home/drain_traces.py).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from model.control import SEQUENCE_BLOCK, QueuedItem

_SOON, _LATE = 30.0, 1800.0
"""Seconds until an item is tried again: after its first refusal, and at most."""

_PAUSE, _LONG_PAUSE = 5.0, 300.0
"""The same for the drain as a whole, when nobody takes anything."""

MOST_REFUSED = 5
"""Items one after the other that were put off; then it is not about them, and the drain as a whole waits."""


class Fate(StrEnum):
    """What has become of an item for one recipient."""

    WAITING = "waiting"
    """Nobody has it but the relay."""

    SENDING = "sending"
    """Its last octet may have gone out; whether it was taken is not known."""

    TAKEN = "taken"
    """Home's mail server has it."""

    KEPT = "kept"
    """It was refused, and lies in quarantine."""


FINAL = frozenset({Fate.TAKEN, Fate.KEPT})


@dataclass(frozen=True)
class Reply:
    """An answer of the mail server.

    Args:
        code: of three digits (RFC 5321 §4.2).
        text: behind it.
    """

    code: int
    text: str = ""

    @property
    def good(self) -> bool:
        """Whether what was asked for is done."""
        return 200 <= self.code < 300

    @property
    def final(self) -> bool:
        """Whether it would be the same tomorrow."""
        return 500 <= self.code < 600


@dataclass(frozen=True)
class Person:
    """A recipient of an item, known by its place in the envelope.

    Args:
        reply: the latest answer that was not good.
    """

    address: str
    fate: Fate = Fate.WAITING
    reply: str = ""


@dataclass(frozen=True)
class Entry:
    """What is known of an item.

    Args:
        people: none before it was opened.
        aside: whether it lies in quarantine as a whole, since it cannot be opened.
        attempt: number of the latest time that it was handed over, from 1.
        port: from which that was done, on this device; 0 for none.
        deleted: whether the relay has forgotten it, or was asked to.
        gone: whether the relay had it no more, before home had it.
    """

    epoch: str
    item: QueuedItem
    people: tuple[Person, ...] = ()
    aside: bool = False
    attempt: int = 0
    port: int = 0
    deleted: bool = False
    gone: bool = False

    @property
    def settled(self) -> bool:
        """Whether every recipient's fate is final."""
        return self.aside or (bool(self.people) and all(person.fate in FINAL for person in self.people))

    @property
    def unsure(self) -> bool:
        """Whether somebody has to look for it."""
        return any(person.fate is Fate.SENDING for person in self.people)

    @property
    def trace(self) -> str:
        """What the latest handing over has written on top of the message."""
        return trace(self.item.id, self.attempt)


def trace(item: str, attempt: int) -> str:
    """Name one handing over of one item: the mail server takes it for all its recipients, or for none."""
    return f"{item}.{attempt}"


class Step(StrEnum):
    """What to do next with an item."""

    OPEN = "open"
    HAND_OVER = "hand over"
    LOOK = "look for it"
    DELETE = "delete"
    WAIT = "wait"


def next_step(entry: Entry | None, retry: float, now: float) -> Step:
    """Decide about one item that the relay has listed.

    Args:
        entry: None when it was never seen.
        retry: when it may be tried again, in seconds of a clock that does not jump.
    """
    if entry is not None and entry.settled:
        return Step.DELETE
    if entry is not None and entry.unsure:
        return Step.LOOK
    if now < retry:
        return Step.WAIT
    return Step.HAND_OVER if entry is not None and entry.people else Step.OPEN


def waiting(entry: Entry) -> tuple[int, ...]:
    """Give the places of those to whom an item is to be handed over; those first of whom nothing was said yet."""
    people = [(bool(person.reply), number) for number, person in enumerate(entry.people) if person.fate is Fate.WAITING]
    return tuple(number for _, number in sorted(people))


def opened(entry: Entry, addresses: Sequence[str]) -> Entry:
    """Note who the recipients are."""
    return replace(entry, people=entry.people or tuple(Person(address) for address in addresses))


def begun(entry: Entry, numbers: Sequence[int], port: int) -> Entry:
    """Note that the last octet is about to go out for these recipients."""
    sending = {number: replace(entry.people[number], fate=Fate.SENDING) for number in numbers}
    return _changed(replace(entry, attempt=entry.attempt + 1, port=port), sending)


def answered(entry: Entry, replies: Mapping[int, Reply]) -> Entry:
    """Note what the mail server has said of some recipients; who was refused must lie in quarantine by now.

    Those of whom nothing is said are as they were.
    """
    people = {}
    for number, reply in replies.items():
        fate = Fate.TAKEN if reply.good else Fate.KEPT if reply.final else Fate.WAITING
        before = entry.people[number]
        if before.fate not in FINAL:
            people[number] = replace(
                before, fate=fate, reply="" if reply.good else f"{reply.code} {reply.text}".strip()
            )
    return _changed(entry, people)


def looked(entry: Entry, *, there: bool) -> Entry:
    """Note whether the latest handing over was found."""
    fate = Fate.TAKEN if there else Fate.WAITING
    unsure = {n: replace(person, fate=fate) for n, person in enumerate(entry.people) if person.fate is Fate.SENDING}
    return _changed(entry, unsure)


def refused(replies: Mapping[int, Reply]) -> tuple[int, ...]:
    """Give those whom the mail server will not take it for."""
    return tuple(number for number, reply in sorted(replies.items()) if reply.final)


def _changed(entry: Entry, people: Mapping[int, Person]) -> Entry:
    return replace(entry, people=tuple(people.get(number, person) for number, person in enumerate(entry.people)))


@dataclass
class Patience:
    """When what was put off is tried again.

    Args:
        tries: how often each item was put off.
        next: when it may be tried again, in seconds of a clock that does not jump.
        row: how many were put off one after the other.
        pauses: how many the drain as a whole has made one after the other.
    """

    tries: dict[str, int] = field(default_factory=dict)
    next: dict[str, float] = field(default_factory=dict)
    row: int = 0
    pauses: int = 0

    def retry(self, item: str) -> float:
        """Tell when an item may be tried again."""
        return self.next.get(item, 0.0)

    def put_off(self, item: str, now: float, *, counts: bool = True) -> None:
        """Let an item wait, longer each time.

        Args:
            counts: whether what happened to it may happen to all others, too.
        """
        tries = self.tries[item] = self.tries.get(item, 0) + 1
        self.next[item] = now + min(_SOON * 2.0 ** min(tries - 1, 16), _LATE)
        self.row += counts

    def done(self, item: str) -> None:
        """Forget an item that was taken, at least for somebody."""
        self.tries.pop(item, None)
        self.next.pop(item, None)
        self.row = self.pauses = 0

    def pause(self) -> float:
        """Give the seconds that the drain as a whole waits, longer each time."""
        seconds = min(_PAUSE * 2.0**self.pauses, _LONG_PAUSE)
        self.row, self.pauses = 0, min(self.pauses + 1, 16)
        return seconds


def notices(
    highest: int, items: Sequence[QueuedItem], known: Mapping[str, Entry], listed_before: Collection[str] | None = None
) -> Iterator[str]:
    """Find what an honest relay does not do, in a list of items: sentences for a person.

    Args:
        highest: sequence number that the relay has listed in this epoch of its queue; 0 when home sees it for the first
            time, and another home may have taken what is missing.
        known: what is written of these items, by id.
        listed_before: ids of all that were listed in this epoch; None when that is not known, as after a start.
    """
    before, begun_with = 0, highest
    listed: dict[int, str] = {}
    for item in items:
        entry = known.get(item.id)
        if item.sequence in listed:
            yield f"the relay has given no. {item.sequence} to two items: {listed[item.sequence]} and {item.id}"
        elif item.sequence < before:
            yield f"the relay's list is out of order: item {item.id} (no. {item.sequence}) comes behind no. {before}"
        if entry is not None and entry.item != item:
            yield f"the relay tells something else of item {item.id} than before"
        if entry is not None and entry.deleted:
            yield f"the relay lists item {item.id} again, which home has: it is deleted once more"
        if listed_before is not None and item.id not in listed_before and item.sequence <= begun_with:
            yield f"the relay lists item {item.id} as no. {item.sequence}, which it had left out before"
        if highest and (lost := _missing(highest, item.sequence)):
            some = f"items no. {lost[0]} to {lost[-1]}" if len(lost) > 1 else f"item no. {lost[0]}"
            yield f"{some} never came here: time was over, another home has it, or the relay has lost it"
        listed[item.sequence], before = item.id, item.sequence
        highest = max(highest, item.sequence)


def vanished(entries: Iterable[Entry], listed: Collection[str]) -> Sequence[Entry]:
    """Give the items that the relay had listed, that home does not have for everybody, and that are listed no more.

    What somebody has to look for is none of them before that was done: home may have it.
    """
    there = (one for one in entries if one.item.id not in listed and not (one.settled or one.gone or one.deleted))
    return [one for one in there if not one.unsure]


def _missing(highest: int, sequence: int) -> range:
    """Give the numbers between two items, unless a restart of the relay's queue explains them by a new block."""
    lost = range(highest + 1, sequence)
    fresh = sequence % SEQUENCE_BLOCK == 1 and len(lost) < SEQUENCE_BLOCK
    return range(0) if fresh else lost
