"""The code that a stranger in the network has to know before a new device obeys: of the console, or the owner's own."""

from __future__ import annotations

import math
import secrets
import threading
from collections.abc import Callable

from model.owner_code import bare_code

_FREE_GUESSES = 3
_LONGEST_WAIT = 60.0
_DIGITS = 8

WRONG = "the code is not the right one"


class WrongCode(Exception):
    """This was not the code, or too many were wrong; the text says which."""


class ConsoleCode:
    """The code of one start, and the patience with those who guess it.

    Args:
        clock: seconds that only ever grow.
        own: the owner's, from a file on the boot partition; empty for one that is made, and that the console shows.
        refusal: why there is a file with one, and it is not taken; empty when there is none or it is.
    """

    def __init__(self, clock: Callable[[], float], own: str = "", refusal: str = "") -> None:
        self._text = own or "".join(secrets.choice("0123456789") for _ in range(_DIGITS))
        self.own = bool(own)
        self.refusal = refusal
        self.grant = secrets.token_urlsafe(32)
        """What a browser that has shown the code once shows in its place, until the device starts anew."""
        self._clock = clock
        self._failures = 0
        self._quiet_until = 0.0
        self._one = threading.Lock()

    @property
    def shown(self) -> str:
        """What the console shows: the owner's own it does not."""
        return "" if self.own else self._text

    def is_granted(self, shown: str) -> bool:
        """Tell whether a browser was granted to pass; nobody guesses that, so that a wrong answer costs no time."""
        return secrets.compare_digest(shown.encode(errors="replace"), self.grant.encode())

    def check(self, typed: str) -> None:
        """Let somebody pass who knows the code, or was granted to pass before.

        Raises:
            WrongCode: somebody who does not, or who has to wait after wrong answers, whoever gave them.
        """
        if self.is_granted(typed):
            return
        with self._one:
            if (wait := self._quiet_until - self._clock()) > 0:
                raise WrongCode(too_many(wait))
            if secrets.compare_digest(bare_code(typed).encode(), self._text.encode()):
                return
            self._failures += 1
            if self._failures >= _FREE_GUESSES:
                longer = min(self._failures - _FREE_GUESSES, 10)
                self._quiet_until = self._clock() + min(2.0**longer, _LONGEST_WAIT)
        own = "in the file that you gave to the build, or wrote to the card"
        where = own if self.own else "on the device's console"
        raise WrongCode(f"{WRONG}: it stands {where}")


def too_many(wait: float) -> str:
    """Say that somebody has guessed too often.

    Args:
        wait: seconds until the next guess is heard; whoever waits for as many as are named does not come too early.
    """
    seconds = math.ceil(wait)
    return f"too many wrong answers: wait {seconds} second{'s' if seconds > 1 else ''}"
