"""The drain at work: does what home.drain decides, one item after the other, in the order in which they came.

Written down in the journal before it counts: who the recipients are, that the last octet is about to go out, what was
answered, and last of all that the relay has forgotten the item.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path

from pyrage import x25519

from home.bucket_seen import note_seen
from home.control_errors import ControlFailure, Garbled, Unreachable
from home.drain import (
    MOST_REFUSED,
    Entry,
    Patience,
    Reply,
    Step,
    answered,
    begun,
    looked,
    next_step,
    notices,
    opened,
    refused,
    trace,
    vanished,
    waiting,
)
from home.drain_errands import Errands, Runner
from home.drain_incoming import Incoming
from home.drain_journal import Journal, JournalError
from home.drain_letter import Letter, LetterError
from home.drain_state import Progress
from home.hand_over import BrokenOffError, LostError, NobodyTakesError
from home.quarantine import Quarantine
from home.relay_queue import GoneError, NotNowError, RelayQueue
from home.room import LEAST_FREE, free_room, lacks_room, megabytes
from model.control import BucketStatus, Page, QueuedItem

INCOMING = "incoming"
QUARANTINE = "quarantine"
"""Folders beside the journal."""

_STUCK = 5
"""Rounds that ended in the middle of the same item; then others go first."""

_MOST_LISTED = 100_000
"""Items of one round: more than a relay of ours ever has. A list without an end would take all memory."""

_MOST_TOLD = 10_000
"""Sentences that are remembered, so that each is said once."""

HandOver = Callable[[Letter, Sequence[int], str, Callable[[Sequence[int], int], None]], Mapping[int, Reply]]
"""See home.hand_over.hand_over."""


class NoRoomError(NobodyTakesError):
    """The disk is too full for anything to be fetched; the text says how full."""


class Drain:
    """Drains one relay.

    Args:
        folder: on the data disk; nobody else writes there.
        identities: home's keys, of which any may open an item.
        tell: says something to the log, without addresses.
        step: called whenever something was done.
        errands: the relay is asked by them alone, so that a round leaves none behind.
        free: gives the bytes that are free on the disk of a folder.
    """

    def __init__(
        self,
        folder: Path,
        journal: Journal,
        relay: RelayQueue,
        identities: Sequence[x25519.Identity],
        hand_over: HandOver,
        tell: Callable[[str], None],
        step: Callable[[Progress], None] = lambda _: None,
        errands: Errands | None = None,
        free: Callable[[Path], int] = free_room,
    ) -> None:
        self._free = free
        self._folder, self._journal, self._relay = folder, journal, relay
        self._hand_over, self._step = hand_over, step
        self._errands = errands or Runner()
        under_way = frozenset(entry.item.id for entry in journal.open_entries())
        self._incoming = Incoming(folder / INCOMING, relay, identities, self._errands, self._tell, under_way)
        self._quarantine = Quarantine(folder / QUARANTINE)
        (folder / QUARANTINE).mkdir(mode=0o700, exist_ok=True)
        self._quarantine.tidy()
        self._tell_always = tell
        self._told: set[str] = set()
        self._patience = Patience()
        self._no_room: NoRoomError | None = None
        self._stuck = ("", 0)
        self._deleting: tuple[Entry, Callable[[], None]] | None = None
        self._progress = Progress()
        self._listed: dict[str, frozenset[str]] = {}
        self.lost = 0
        """Items that the relay had listed, and has no more, though home did not get them."""

    @property
    def patience(self) -> Patience:
        """What was put off."""
        return self._patience

    def remember(self, bucket: BucketStatus) -> None:
        """Remember what the relay has told of its bucket, for the day on which it has died.

        Raises:
            OSError: the disk fails.
        """
        note_seen(self._folder, bucket)

    def settle(self, found: Mapping[str, bool]) -> None:
        """Note for handings over, by their traces, whether somebody has found them."""
        for entry in self._journal.open_entries():
            if entry.unsure and entry.trace in found:
                self._journal.note(looked(entry, there=found[entry.trace]))

    def round(self) -> Progress:
        """Go through all that the relay lists, once.

        Raises:
            ControlFailure: the relay does not answer as it should.
            NobodyTakesError: home's mail server takes nothing now.
            NoRoomError: there was no room for something, which stays on the relay; what is smaller was gone through.
            LostError: somebody has to look whether it has taken something.
            JournalError, OSError: the disk fails.
        """
        self._progress, self._no_room = Progress(), None
        try:
            self._go_through()
        except Exception:
            with suppress(ControlFailure, JournalError, OSError):
                self._finish_deleting()
            self._incoming.wait()
            raise
        self._patience.pauses = 0
        return self._progress

    def _go_through(self) -> None:
        after, listed, epoch = 0, set[str](), ""
        again: list[QueuedItem] = []
        while True:
            page = self._errands.begin(partial(self._relay.page, after))()
            if epoch and page.epoch != epoch:
                break  # the queue has begun anew in the middle
            epoch = page.epoch
            known = self._begin(page)
            listed |= {item.id for item in page.items}
            # What was put off comes last: else many of these, for one full mailbox, would have every turn there is.
            again += [item for item in page.items if item.id in self._patience.tries]
            self._pass_all(epoch, [item for item in page.items if item.id not in self._patience.tries], known)
            highest = max((item.sequence for item in page.items), default=after)
            if len(listed) > _MOST_LISTED:
                raise Garbled(f"found a list of more than {_MOST_LISTED} items")
            if not page.more or highest <= after:
                self._miss(epoch, listed)
                self._finish_deleting()
                self._listed = {epoch: self._listed.get(epoch, frozenset()) | listed}
                self._pass_all(epoch, again, self._journal.find(epoch, [item.id for item in again]))
                break
            after = highest
        self._incoming.drop_ahead()
        if self._no_room:
            raise self._no_room

    def _pass_all(self, epoch: str, items: Sequence[QueuedItem], known: Mapping[str, Entry]) -> None:
        for number, item in enumerate(items):
            self._pass(epoch, item, known, islice(items, number + 1, None))
        self._finish_deleting()

    def pause(self) -> float:
        """Give the seconds to wait after a round that failed."""
        return self._patience.pause()

    def _begin(self, page: Page) -> Mapping[str, Entry]:
        known = self._journal.find(page.epoch, (item.id for item in page.items))
        highest = self._journal.highest(page.epoch)
        for text in notices(highest, page.items, known, self._listed.get(page.epoch)):
            self._tell(text)
        now_highest = max((item.sequence for item in page.items), default=0)
        if now_highest > highest:
            self._journal.note_highest(page.epoch, now_highest)
        return known

    def _miss(self, epoch: str, listed: set[str]) -> None:
        under_way = self._journal.open_entries()
        for entry in under_way:
            # A cut came between the relay's forgetting and the note of it.
            if entry.settled and entry.item.id not in listed:
                self._journal.note(replace(entry, deleted=True), soon=True)
                self._incoming.forget(entry.item.id)
        for entry in vanished(under_way, listed):
            if self._is_here(entry):
                self._tell(f"item {entry.item.id} is listed by the relay no more: home hands over what it has fetched")
                self._pass(entry.epoch, entry.item, {entry.item.id: entry}, iter(()))
                continue
            which = "" if entry.epoch == epoch else ", which has begun a new queue"
            self._tell(f"item {entry.item.id} is lost: the relay{which} has it no more, and home did not get it")
            self.lost += 1
            self._journal.note(replace(entry, gone=True))
            self._incoming.forget(entry.item.id)

    def _is_here(self, entry: Entry) -> bool:
        return bool(entry.people) and self._incoming.has(entry.item.id)

    def _pass(self, epoch: str, item: QueuedItem, known: Mapping[str, Entry], behind: Iterator[QueuedItem]) -> None:
        """Go on with an item as far as possible; one at which everything ends again and again does not stop others."""
        try:
            self._advance(epoch, item, known, behind)
        except (Unreachable, BrokenOffError) as error:
            name, times = self._stuck
            self._stuck = (item.id, times + 1 if name == item.id else 1)
            if self._stuck[1] < _STUCK:
                raise
            why = error.found if isinstance(error, Unreachable) else error
            self._tell(f"item {item.id} has stopped everything {_STUCK} times, and waits now: {why}")
            self._put_off(item.id)
        except NoRoomError as error:
            self._no_room = error  # something smaller may fit
        except GoneError as error:
            self._tell(f"item {item.id} was listed by the relay, which does not have it: {error}")
            self._put_off(item.id, counts=False)

    def _advance(self, epoch: str, item: QueuedItem, known: Mapping[str, Entry], behind: Iterator[QueuedItem]) -> None:
        """Go on with an item as far as possible.

        Args:
            behind: the items that come next.
        """
        entry = known.get(item.id)
        if entry is not None and entry.gone:
            entry = replace(entry, gone=False)  # the relay has it after all
        while True:
            now = time.monotonic()
            match next_step(entry, self._patience.retry(item.id), now):
                case Step.OPEN:
                    entry = self._open(entry or Entry(epoch, item))
                case Step.HAND_OVER:
                    assert entry is not None
                    entry = self._deliver(entry, next((one for one in behind if self._is_ripe(one, known)), None))
                case Step.DELETE:
                    assert entry is not None
                    self._delete(entry)
                    return
                case Step.WAIT | Step.LOOK:
                    self._progress.put_off += 1
                    return
            if entry is None:
                self._put_off(item.id)
                return

    def _is_ripe(self, item: QueuedItem, known: Mapping[str, Entry]) -> bool:
        """Tell whether an item is about to be handed over."""
        step = next_step(known.get(item.id), self._patience.retry(item.id), time.monotonic())
        return step in {Step.OPEN, Step.HAND_OVER}

    def _put_off(self, item: str, *, counts: bool = True) -> None:
        # Nothing is deleted now, by whose answer the relay would tell that it serves this home still.
        self._incoming.drop_ahead()
        self._patience.put_off(item, time.monotonic(), counts=counts)
        if self._patience.row >= MOST_REFUSED:
            raise NobodyTakesError(f"{MOST_REFUSED} messages in a row were put off")

    def _open(self, entry: Entry) -> Entry | None:
        """Fetch and open an item and note its recipients; None when that has to wait."""
        self._find_room(entry.item)
        try:
            letter = self._letter(entry)
        except NotNowError as error:
            self._tell(f"the relay cannot give item {entry.item.id} now: {error}")
            return None
        except LetterError as error:
            return self._set_aside(entry, str(error))
        if letter is None:
            return None
        now_opened = opened(entry, [address for address, _ in letter.envelope.recipients])
        self._journal.note(now_opened, soon=True)
        return now_opened

    def _find_room(self, item: QueuedItem) -> None:
        """See that ciphertext and letter fit: what is refused stays here, round after round, until somebody looks."""
        if lacks_room(free := self._free(self._folder), 2 * item.size):
            kept = 0 if self._no_room else sum(one.size for one in self._quarantine.all()[0])
            raise self._no_room or NoRoomError(
                f"the data disk has no room for it: {megabytes(free)} are free, {megabytes(LEAST_FREE)} have to stay, "
                f"and {megabytes(kept)} lie in quarantine (darkpipe quarantine list)"
            )

    def _letter(self, entry: Entry) -> Letter | None:
        letter = self._incoming.letter(entry.item)
        addresses = [address for address, _ in letter.envelope.recipients] if letter else []
        if letter and entry.people and addresses != [person.address for person in entry.people]:
            raise LetterError("the relay gives another letter than before under the same id")
        return letter

    def _set_aside(self, entry: Entry, reason: str) -> Entry | None:
        sealed = self._incoming.sealed(entry.item)
        if sealed is None:
            return None
        self._quarantine.keep_sealed(entry, sealed, reason, _now())
        self._tell(f"item {entry.item.id} lies in quarantine: {reason}")
        aside = replace(entry, aside=True)
        self._journal.note(aside)
        return aside

    def _deliver(self, entry: Entry, following: QueuedItem | None) -> Entry | None:
        """Hand a letter over for those who wait for it; None when all of them have to wait longer.

        Args:
            following: what is fetched meanwhile.
        """
        try:
            letter = self._letter(entry)
        except NotNowError:
            return None
        except LetterError as error:
            return self._set_aside(entry, str(error))
        if letter is None:
            return None
        self._incoming.fetch_ahead(following)
        current = entry

        def about_to_end(numbers: Sequence[int], port: int) -> None:
            nonlocal current
            # Another home may have come while the last letter was handed over: this tells, before it is too late.
            self._finish_deleting()
            current = begun(current, numbers, port)
            self._journal.note(current)

        who = waiting(entry)
        try:
            replies = self._hand_over(letter, who, trace(entry.item.id, entry.attempt + 1), about_to_end)
        except LostError:
            self._tell(f"the mail server was lost before it answered for item {entry.item.id}: it has to be looked for")
            raise
        if no := refused(replies):
            self._quarantine.keep_refused(current, letter, {number: replies[number] for number in no}, _now())
            self._tell(f"item {entry.item.id} lies in quarantine for {len(no)} recipients: it was refused")
        done = answered(current, replies)
        self._journal.note(done)
        if taken := [number for number, reply in replies.items() if reply.good]:
            self._quarantine.forget(entry.item.id, taken)
        if taken or no or done.settled:
            self._patience.done(entry.item.id)
        if not done.settled:
            return None
        self._progress.items += 1
        self._progress.octets += letter.size
        self._step(self._progress)
        return done

    def _delete(self, entry: Entry) -> None:
        """Have the relay forget an item that home has, while the next one is handed over."""
        self._finish_deleting()
        self._incoming.forget(entry.item.id)
        self._deleting = entry, self._errands.begin(partial(self._relay.delete, entry.item.id))

    def _finish_deleting(self) -> None:
        if self._deleting is None:
            return
        entry, wait = self._deleting
        self._deleting = None
        try:
            wait()
        except NotNowError as error:
            self._tell(f"the relay cannot forget item {entry.item.id} now: {error}")
        else:
            self._journal.note(replace(entry, deleted=True), soon=True)

    def _tell(self, text: str) -> None:
        """Say something once."""
        if len(self._told) > _MOST_TOLD:
            self._told.clear()
        if text not in self._told:
            self._told.add(text)
            self._tell_always(text)


def _now() -> int:
    return time.time_ns() // 1_000_000
