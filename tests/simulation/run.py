"""The simulation itself: so many messages through so many faults, and the sum."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from unittest import mock

import home.drain
from model.s3_objects import Objects
from tests.memory import folder_in_memory
from tests.simulation.disk import wrapped
from tests.simulation.ends import Message
from tests.simulation.world import Plant, World

_PLACES = ("relay", "relay", "relay", "home", "home", "network", "network", "network", "store")
_KINDS = {
    "relay": ("before", "after", "before", "after", "error", "full"),
    "home": ("before", "after", "before", "after", "error", "full"),
    "network": ("error", "error", "home off", "relay off"),
    "store": ("error", "swallow"),
}
_CALLS = {"relay": 40, "home": 60, "network": 20, "store": 6}
"""So many calls after it was armed a fault happens at the latest."""


_ROUNDS = 15
"""In which home takes what waits at the end; for all but the lost two are enough."""


@dataclass(frozen=True)
class Outcome:
    """What came of it.

    Args:
        faults: how often each kind of fault has happened.
        lost: messages that were taken and never came.
        repeated: messages that came more often than RFC 1047 excuses.
        damaged: messages that came as others.
        left: items that neither relay nor bucket should have any more.
        excused: copies that RFC 1047 excuses.
    """

    messages: int
    faults: Counter[str]
    lost: tuple[int, ...]
    repeated: tuple[int, ...]
    damaged: tuple[int, ...]
    left: int
    excused: int
    lives: int

    @property
    def good(self) -> bool:
        """Whether nothing was lost, repeated, damaged or left."""
        return not (self.lost or self.repeated or self.damaged or self.left)

    def __str__(self) -> str:
        some = (
            f"{self.messages} messages, {self.faults.total()} faults, {self.lives} starts after a kill or a power cut"
        )
        return (
            f"{some}: {len(self.lost)} lost, {len(self.repeated)} repeated, {len(self.damaged)} damaged, "
            f"{self.left} left behind; {self.excused} copies that RFC 1047 excuses"
        )


def simulate(
    messages: int, faults: int, seed: int, plant: Plant = Plant.NONE, say: Callable[[str], None] = lambda text: None
) -> Outcome:
    """Send messages until so many have been sent and so many faults have happened; then drain what waits."""
    chance = random.Random(seed)
    with folder_in_memory() as folder, _planted(plant):
        disks: list[World] = []
        with wrapped(lambda: disks[0].disks if disks else []):
            world = World(folder, chance, plant)
            disks.append(world)
            _run(world, messages, faults, say)
            return _finish(world)


def _run(world: World, messages: int, faults: int, say: Callable[[str], None]) -> None:
    chance, waiting = world.chance, list[Message]()
    number = 0
    while number < messages or world.done.total() < faults:
        size = chance.choice([20, 700, 5_000, 5_000, 5_000, 100_000])
        message = Message(number, b"No: %d\r\n\r\n.%s\r\n" % (number, b"x" * size))
        world.messages[number] = message
        waiting.append(message)
        number += 1
        if number % 20 == 0:
            world.armed = None  # what nobody calls would hinder all others
        if world.armed is None and chance.random() < 2 * faults / messages:
            _arm(world)
        for one in chance.sample(waiting, min(len(waiting), 3)):
            world.send(one)
            if one.taken:
                waiting.remove(one)
        if chance.random() < 0.3:
            world.drain()
        if number % 1000 == 0:
            say(f"{number} messages, {world.done.total()} faults")
    world.armed = None
    while waiting:
        world.wait_for_store()
        world.send(waiting[-1])
        if waiting[-1].taken:
            waiting.pop()


def _arm(world: World) -> None:
    chance = world.chance
    if chance.random() < 0.05:
        world.clock += chance.choice([-1, 1]) * chance.choice([60, 86_400, 10**8])
        world.done["clock: jump"] += 1
        return
    place = chance.choice(_PLACES)
    world.arm(place, chance.choice(_KINDS[place]), chance.randrange(_CALLS[place]))


def _finish(world: World) -> Outcome:
    """Drain what waits, with no more faults."""
    for _ in range(_ROUNDS):
        world.revive()
        world.wait_for_store()
        if world.drain() and not world.relay.spool.items():
            break
    left = len(world.relay.spool.items())
    world.relay.place.stop()
    world.home.journal.close()
    copies = world.mailbox.copies
    return Outcome(
        messages=len(world.messages),
        faults=world.done,
        lost=tuple(number for number, one in world.messages.items() if one.taken and not copies[number]),
        repeated=tuple(number for number, one in world.messages.items() if copies[number] > 1 + one.unclear),
        damaged=tuple(world.mailbox.damaged),
        left=left,
        excused=sum(max(0, count - 1) for count in copies.values()),
        lives=world.lives,
    )


@contextmanager
def _planted(plant: Plant) -> Iterator[None]:
    """Plant what is not in the world itself; and let what was put off be tried at once."""
    with mock.patch.object(home.drain, "_SOON", 0.0):
        if plant is Plant.BUCKET_BLIND:
            with mock.patch.object(Objects, "_is", return_value=True):
                yield
        else:
            yield
