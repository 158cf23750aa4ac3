"""What happens between a locked disk and an open one, step by step: nothing here knows of pages, sockets or consoles.

A new disk: somebody chooses a passphrase, is shown the recovery secret, and types a part of it back; only then is
anything made. One that is there: somebody types passphrase or recovery secret; whoever guesses waits longer each time.
"""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum

from firstboot.console_code import ConsoleCode, WrongCode, too_many
from firstboot.luks import LuksError
from firstboot.recovery import RecoverySecret, ask_for, is_typed_back, make_secret
from firstboot.vault import LONGEST, PassphraseError, check_passphrase

_FREE_GUESSES = 3
_LONGEST_WAIT = 60.0


class Stage(StrEnum):
    """How far it is."""

    SITE = "site"
    """The device has brought no site, and asks for one (`firstboot/site_asking.py`)."""
    TAKEN = "taken"
    """It has one now, and looks for the disk."""
    NEW = "new"
    """Nothing is made yet: a passphrase is to be chosen."""
    CONFIRM = "confirm"
    """The recovery secret was shown: a part of it is to be typed back."""
    WORKING = "working"
    """The disk is being made."""
    LOCKED = "locked"
    """It is there: passphrase or recovery secret are to be typed."""
    REFUSED = "refused"
    """It is there, and nobody is asked for anything: somebody else has written to its head."""
    OPEN = "open"
    FAILED = "failed"


class Refused(Exception):
    """This was not done; the text says why, for whoever asked."""


@dataclass(frozen=True)
class View:
    """What somebody who waits for the disk may see.

    Args:
        text: what is going on.
        asked: the groups of the recovery secret that are to be typed back, counted from 1.
        wait: seconds until the next guess is heard.
    """

    stage: Stage
    text: str = ""
    asked: tuple[int, ...] = ()
    wait: float = 0.0


class Session:
    """The way from a locked disk, or from none, to an open one; several people may try at once.

    Args:
        new: whether the disk is still to be made.
        make: makes it, given a passphrase, the recovery secret, and what is told how far it is.
        unlock: tries what was typed.
        clock: seconds that only ever grow.
        refused: why nobody may try; empty when everybody may.
        warning: what whoever types should know before; empty for nothing.
        code: what a stranger in the network has to know before choosing the passphrase.
    """

    def __init__(
        self,
        *,
        new: bool,
        make: Callable[[bytes, RecoverySecret, Callable[[str], None]], object],
        unlock: Callable[[str], bool],
        clock: Callable[[], float],
        secret: Callable[[], RecoverySecret] = make_secret,
        asked: Callable[[], tuple[int, ...]] = ask_for,
        refused: str = "",
        warning: str = "",
        code: ConsoleCode | None = None,
    ) -> None:
        self.code = code or ConsoleCode(clock)
        self.finished = threading.Event()
        self._make, self._unlock, self._clock = make, unlock, clock
        self._new_secret, self._choose_groups = secret, asked
        self._stage = Stage.REFUSED if refused else Stage.NEW if new else Stage.LOCKED
        self._text = refused or warning
        self._chosen: tuple[bytes, RecoverySecret] | None = None
        self._asked: tuple[int, ...] = ()
        self._failures = 0
        self._quiet_until = 0.0
        self._busy = threading.Lock()
        self.patience = 10.0
        """Seconds to wait while another answer is tried."""

    def view(self) -> View:
        """Give what is to be seen now."""
        wait = max(0.0, self._quiet_until - self._clock())
        return View(self._stage, self._text, self._asked if self._stage is Stage.CONFIRM else (), wait)

    def choose(self, passphrase: str, code: str, *, stranger: bool) -> RecoverySecret:
        """Choose the passphrase of a new disk; again, as long as nothing was typed back.

        Args:
            code: see `ConsoleCode`; not looked at unless a stranger asks.
            stranger: whether somebody asks who is not known to own the device.

        Returns:
            The recovery secret, to be shown now and never again.

        Raises:
            Refused: it cannot be the passphrase, the code is wrong, or the disk is there.
        """
        with self._only_one():
            self._must_be(Stage.NEW, Stage.CONFIRM)
            if stranger:
                try:
                    self.code.check(code)
                except WrongCode as error:
                    raise Refused(str(error)) from None
            try:
                chosen = check_passphrase(passphrase)
            except PassphraseError as error:
                raise Refused(str(error)) from None
            self._chosen = chosen, self._new_secret()
            self._asked = self._choose_groups()
            self._stage = Stage.CONFIRM
            return self._chosen[1]

    def confirm(self, typed: Sequence[str]) -> None:
        """Take the part of the recovery secret that was asked for, and make the disk.

        Raises:
            Refused: it is another one, the disk is there, or it cannot be made.
        """
        with self._only_one():
            self._must_be(Stage.CONFIRM)
            if self._chosen is None or not is_typed_back(self._chosen[1], self._asked, typed):
                groups = " and ".join(map(str, self._asked))
                raise Refused(f"this is not what stands in groups {groups} of the recovery secret")
            (passphrase, secret), self._chosen = self._chosen, None
            self._stage = Stage.WORKING
            try:
                self._make(passphrase, secret, self._tell)
            except Exception as error:
                self._fail(error)
                raise Refused(self._text) from error
            self._open()

    def unlock(self, typed: str, *, stranger: bool) -> None:
        """Try passphrase or recovery secret.

        Args:
            stranger: whether somebody asks who is not known to own the device; only they have to wait, so that nobody
                can keep the owner out by guessing.

        Raises:
            Refused: it is wrong, too many were wrong, or the disk cannot be unlocked.
        """
        with self._only_one():
            if self._stage is Stage.OPEN:
                return
            self._must_be(Stage.LOCKED)
            if stranger:
                self._heard()
            try:
                right = self._unlock(typed[:LONGEST])
            except LuksError as error:
                raise Refused(str(error)) from error
            if not right:
                self._failed(stranger)
                raise Refused("this is neither the passphrase nor the recovery secret")
            self._open()

    def offer(self, attempt: Callable[[], bool]) -> bool:
        """Try a key that nobody has typed, from a stick for instance; waits while somebody else's answer is tried.

        Args:
            attempt: unlocks the disk, and tells whether it did.

        Returns:
            Whether the disk is open.
        """
        with self._busy:
            if self._stage is Stage.LOCKED and attempt():
                self._open()
            return self._stage is Stage.OPEN

    def _open(self) -> None:
        self._stage, self._text = Stage.OPEN, ""
        self.finished.set()

    def _tell(self, text: str) -> None:
        self._text = text

    def _fail(self, error: Exception) -> None:
        self._stage, self._text = Stage.FAILED, f"the disk cannot be made: {in_words(error)}"
        self.finished.set()

    def _must_be(self, *stages: Stage) -> None:
        if self._stage not in stages:
            raise Refused(_NOT_NOW[self._stage])

    def _heard(self) -> None:
        if (wait := self._quiet_until - self._clock()) > 0:
            raise Refused(too_many(wait))

    def _failed(self, stranger: bool) -> None:
        self._failures += stranger
        if stranger and self._failures >= _FREE_GUESSES:
            # Beyond ten the power only grows; a float has an end.
            longer = min(self._failures - _FREE_GUESSES, 10)
            self._quiet_until = self._clock() + min(2.0**longer, _LONGEST_WAIT)

    @contextmanager
    def _only_one(self) -> Iterator[None]:
        # argon2id would otherwise take the memory of several. Who presses a button twice waits for the first answer.
        if not self._busy.acquire(timeout=self.patience):
            raise Refused("another answer is being tried at this moment: again in some seconds")
        try:
            yield
        finally:
            self._busy.release()


def in_words(error: Exception) -> str:
    """Say what went wrong; of a program that failed, what it has printed."""
    if isinstance(error, subprocess.CalledProcessError):
        return f"{error.cmd[0]} failed: {str(error.output or '').strip()}"
    return str(error)


_NOT_NOW = {
    Stage.SITE: "the device has no site yet",
    Stage.TAKEN: "the device looks for its disk",
    Stage.NEW: "the disk is not made yet: choose a passphrase first",
    Stage.CONFIRM: "the recovery secret was not typed back yet",
    Stage.WORKING: "the disk is being made",
    Stage.LOCKED: "the disk is there already, and locked",
    Stage.REFUSED: "the disk is not used: somebody else has written to its head",
    Stage.OPEN: "the disk is unlocked already",
    Stage.FAILED: "the disk cannot be used: see the device's console",
}
