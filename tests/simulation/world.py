"""A relay and a home in one process, one after the other, with the real code between sender and mailbox."""

from __future__ import annotations

import hashlib
import random
import shutil
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from http import HTTPStatus
from pathlib import Path
from typing import Any, BinaryIO, cast

from pyrage import x25519

from home.control_errors import ControlFailure, Unreachable
from home.drain import Reply
from home.drain_journal import JournalError
from home.drain_letter import Letter
from home.drain_run import Drain
from home.hand_over import LostError, NobodyTakesError
from home.quarantine import QuarantineError
from home.relay_queue import GoneError, NotNowError
from model.control import Page, QueuedItem, QueueStatus
from relay.control import Request
from relay.place import PlaceError
from relay.presence import Presence
from relay.queue_api import QueueApi
from relay.reception import Terms, converse
from relay.s3 import Rhythm, S3Place
from relay.smtp import Reply as SmtpReply
from relay.spool import Spool
from tests.bucket import SETTINGS, Bucket
from tests.simulation.disk import Cut, Disk
from tests.simulation.ends import TAKEN, ChanceStore, Mailbox, Message, Sender
from tests.simulation.errands import ChanceErrands
from tests.simulation.journal import WatchedJournal

_HOME = x25519.Identity.generate()
_KEYS = [str(_HOME.to_public())]
_QUICK = Rhythm(soon=0.0, pauses=(0.001,))
_LONGEST_WAIT = 0.5
"""Seconds for the bucket's thread to see that its store is well again."""


class Plant(StrEnum):
    """Bugs that can be planted."""

    NONE = "nothing"
    NO_FSYNC = "no-fsync"
    """The relay does not sync its files."""
    NO_FOLDER_FSYNC = "no-folder-fsync"
    """The relay does not sync its folder."""
    DELETE_FIRST = "delete-first"
    """Home lets the relay delete before its journal knows."""
    NO_JOURNAL = "no-journal"
    """Home's journal is not synced before it counts."""
    NO_LOOK = "no-look"
    """Home does not look for what may have been taken."""
    BUCKET_BLIND = "bucket-blind"
    """What is put into the bucket is not read back."""


class _Api:
    """A `RelayQueue` whose requests and answers get lost."""

    def __init__(self, world: World) -> None:
        self._world = world

    def page(self, after: int) -> Page:
        return Page.read(self._ask("GET", "/items", after=str(after)))

    def fetch(self, item: QueuedItem, into: BinaryIO) -> str:
        octets = self._ask("GET", f"/items/{item.id}")
        if self._world.point("fetch") == "error":
            into.write(octets[: len(octets) // 2])
            raise Unreachable("planted")
        into.write(octets)
        if self._world.plant is Plant.DELETE_FIRST:
            self.delete(item.id)
        return hashlib.sha256(octets).hexdigest()

    def delete(self, item: str) -> None:
        with suppress(GoneError):
            self._ask("DELETE", f"/items/{item}")

    def status(self) -> QueueStatus:
        raise NotImplementedError

    def _ask(self, method: str, path: str, **query: str) -> bytes:
        world = self._world
        if world.point("request") == "error":
            raise Unreachable("planted")
        try:
            response = world.relay.api(Request(method, path, cast("Any", None), query))
            body = response.body.read_bytes() if isinstance(response.body, Path) else response.body
            octets = body if isinstance(body, bytes) else b"".join(body)
        except Cut:
            if not world.relay.disk.dead:
                raise
            raise Unreachable("the relay is off") from None
        except (OSError, PlaceError) as error:  # in the middle of a body
            raise Unreachable(str(error)) from None
        if world.point("response") == "error":
            raise Unreachable("planted")
        if response.status == HTTPStatus.NOT_FOUND:
            raise GoneError(path)
        if response.status >= 300:
            raise NotNowError(str(response.status))
        return octets


class _Place(S3Place):
    """A place whose thread ends with its machine."""

    def _look_after(self) -> None:
        with suppress(Cut):
            super()._look_after()

    def stop(self) -> None:
        super().stop()
        self._thread.join()  # it writes to the disk that is about to go


class _Relay:
    """A relay during one of its lives."""

    def __init__(self, world: World, root: Path) -> None:
        blind = {
            Plant.NO_FSYNC: lambda path: not Path(path).is_dir(),
            Plant.NO_FOLDER_FSYNC: lambda path: Path(path).is_dir(),
        }
        self.disk = Disk(root, world.point_of("relay"), blind=blind.get(world.plant, lambda path: False))
        world.disks.append(self.disk)
        # Now and then there is hardly any room on the disk, and the bucket is in use.
        budget = world.chance.choice([10**9, 150_000])
        self.spool = Spool(root, _KEYS, budget)
        self.place = _Place(SETTINGS, root, self.spool.epoch, objects=world.bucket, rhythm=_QUICK)
        self.spool.use(_KEYS, budget, self.place)
        self.place.start(self.spool.held_elsewhere(self.place))
        self.api = QueueApi(self.spool, Presence(root, world.now), self._status)

    @staticmethod
    def _status() -> QueueStatus:
        raise NotImplementedError


class _Home:
    """A home during one of its lives."""

    def __init__(self, world: World, root: Path) -> None:
        self.disk = Disk(root, world.point_of("home"))
        world.disks.append(self.disk)
        self.journal = WatchedJournal(root, synced=world.plant is not Plant.NO_JOURNAL)
        self.errands = ChanceErrands(world.chance, lambda: self.disk.dead)
        self.drain = Drain(
            root,
            self.journal,
            _Api(world),
            [_HOME],
            world.hand_over,
            lambda text: None,
            errands=self.errands,
            free=lambda _: 10**12,
        )
        traces = {entry.trace for entry in self.journal.open_entries() if entry.unsure}
        there = set() if world.plant is Plant.NO_LOOK else world.mailbox.traces
        self.drain.settle({trace: trace in there for trace in traces})


@dataclass
class World:
    """All of it.

    Args:
        folder: for the disks.
        plant: a bug to be found.
    """

    folder: Path
    chance: random.Random
    plant: Plant = Plant.NONE
    messages: dict[int, Message] = field(default_factory=dict)
    mailbox: Mailbox = field(default_factory=Mailbox)
    disks: list[Disk] = field(default_factory=list)
    armed: tuple[str, str, int] | None = None
    done: Counter[str] = field(default_factory=Counter)
    clock: float = 1_795_478_400.0
    lives: int = 0
    bucket: Bucket = field(init=False)
    relay: _Relay = field(init=False)
    home: _Home = field(init=False)

    def __post_init__(self) -> None:
        self.bucket = ChanceStore(self._happens)
        for name in ("relay", "home"):
            (self.folder / f"{name}-0").mkdir()
        self.relay = _Relay(self, self.folder / "relay-0")
        self.home = _Home(self, self.folder / "home-0")

    def now(self) -> float:
        self.clock += 0.01
        return self.clock

    # ---- Faults

    def arm(self, place: str, what: str, calls: int) -> None:
        """Let a fault happen at the so manyth call of a place that it fits."""
        self.armed = (place, what, calls)

    def _happens(self, place: str, call: str) -> str | None:
        if self.armed is None or self.armed[0] != place:
            return None
        _, what, calls = self.armed
        if (what == "swallow") != (call == "swallow"):
            return None
        if calls > 0:
            self.armed = (place, what, calls - 1)
            return None
        self.armed = None
        self.done[f"{place}: {what} at {call}"] += 1
        return what

    def point_of(self, machine: str) -> Callable[[str], str | None]:
        """Give what is asked at each call of a machine's disk."""
        return lambda call: self._happens(machine, call)

    def point(self, call: str) -> str | None:
        """Is asked at each step on the network."""
        what = self._happens("network", call)
        if what == "relay off":
            self.relay.disk.dead = True
            return "error"
        if what == "home off":
            self.home.disk.dead = True
            if call not in {"recv", "send"}:
                raise Cut
            return None
        return what

    # ---- Lives

    def revive(self) -> None:
        """Start the machines that are off: after a kill, or after a power cut."""
        if self.relay.disk.dead:
            self.relay.place.stop()
            root = self._next("relay", self.relay.disk, None)
            self.relay = self._try(lambda: _Relay(self, root))
        if self.home.disk.dead:
            journal = self.home.journal
            root = self._next("home", self.home.disk, journal)
            self.home = self._try(lambda: _Home(self, root))
            journal.close()

    def _next(self, name: str, disk: Disk, journal: WatchedJournal | None) -> Path:
        self.lives += 1
        root = self.folder / f"{name}-{self.lives}"
        if self.chance.random() < 0.5:
            disk.after_kill(root)
            for path in root.glob("journal.db*"):
                path.unlink()
            if journal:
                journal.after_kill(root)
        else:
            disk.after_power_cut(root, self.chance)
            if journal:
                journal.after_power_cut(root)
        self.disks.remove(disk)
        shutil.rmtree(f"{disk.root}.attic")
        shutil.rmtree(disk.root)
        return root

    def _try(self, start: Callable[[], Any]) -> Any:
        """Start a machine; what keeps it from it is over when systemd tries again."""
        while True:
            before = list(self.disks)
            try:
                return start()
            except (Cut, OSError, JournalError, QuarantineError):
                for disk in self.disks:
                    if disk not in before:
                        shutil.rmtree(f"{disk.root}.attic")
                self.disks = before

    # ---- The way of a message

    def send(self, message: Message) -> None:
        """Send a message once, as far as one comes."""
        self.revive()
        client = Sender(message, self.point, lambda: self.relay.disk.dead)
        terms = Terms("mx.example.com", 10**7, lambda _: SmtpReply(250, "2.1.5 Ok"))
        with suppress(Cut):
            converse(cast("Any", client), terms, self.relay.spool, self.now)
        if TAKEN in client.told:
            message.taken = True
        elif client.all_sent and not client.told.splitlines()[-1:][0].startswith((b"4", b"5")):
            message.unclear += 1

    def hand_over(
        self,
        letter: Letter,
        numbers: Sequence[int],
        trace: str,
        about_to_end: Callable[[Sequence[int], int], None],
    ) -> Mapping[int, Reply]:
        """Take a letter, as home.hand_over does with the mail server."""
        if self.point("hand-over") == "error":
            raise NobodyTakesError("planted")
        self.home.errands.perhaps()
        about_to_end(numbers, 4242)
        self.home.errands.perhaps()
        if self.point("last-octet") == "error":
            raise LostError("planted")
        self.mailbox.take(letter, trace, self.messages)
        self.home.errands.perhaps()
        if self.point("reply") == "error":
            raise LostError("planted")
        return {number: Reply(250) for number in numbers}

    def drain(self) -> bool:
        """Let home go through the queue once; tells whether nothing came in between."""
        self.revive()
        try:
            self.home.drain.round()
        except Cut:
            return False
        except LostError:
            self.home.disk.dead = True  # the service starts anew
            return False
        except (ControlFailure, NobodyTakesError, JournalError, QuarantineError, OSError):
            return False
        return True

    def wait_for_store(self) -> None:
        """Let the bucket's thread see that its store is well."""
        end = time.monotonic() + _LONGEST_WAIT
        while not self.relay.place.has_room(0) and time.monotonic() < end:
            time.sleep(0.001)
