"""Who may use the device's page: claimed once, by a code from the console; from then on by a password.

Nothing here knows of browsers, sockets or files. Guesses are heard ever more rarely, no matter who sends them: an
address of the network proves nothing.
"""

from __future__ import annotations

import hashlib
import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from firstboot.console_code import too_many
from model.owner_code import CODE_NAME, bare_code
from model.problems import Refusal
from stack.passwords import check_password

_FREE_GUESSES = 3
_LONGEST_WAIT = 60.0
_CODE_DIGITS = 8
_LONGEST_TYPED = 1024
_MOST_SESSIONS = 16

IDLE = 30 * 60.0
"""Seconds after which a session ends that nobody uses."""

LONGEST = 12 * 3600.0
"""Seconds after which a session ends though somebody uses it."""


class Denied(Exception):
    """This was not done; the text says why, for whoever asked."""


class SignedOut(Denied):
    """There is no such session, or not any more."""

    def __init__(self) -> None:
        super().__init__("you are not signed in, or not any more")


class Patience:
    """Wrong guesses cost time: three guesses are free, then 1 s, 2 s, 4 s and so on, up to a minute.

    At that pace a code of eight digits takes a century to find.

    Args:
        clock: seconds that only ever grow.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._failures = 0
        self._quiet_until = 0.0

    def hear(self) -> None:
        """Let a guess pass.

        Raises:
            Denied: it comes too early, and is not looked at.
        """
        if (wait := self._quiet_until - self._clock()) > 0:
            raise Denied(too_many(wait))

    def failed(self) -> None:
        """Take note of a wrong guess."""
        self._failures += 1
        if self._failures >= _FREE_GUESSES:
            # Beyond ten the power only grows; a float has an end.
            longer = min(self._failures - _FREE_GUESSES, 10)
            self._quiet_until = self._clock() + min(2.0**longer, _LONGEST_WAIT)

    def succeeded(self) -> None:
        """Forget the wrong guesses before a right one."""
        self._failures = 0


@dataclass(frozen=True)
class _Session:
    began: float
    used: float


class Gate:
    """Claim, password and sessions; several people may try at once.

    Args:
        kept: the hash of the administrator's password; None while nobody has claimed the device.
        keep: stores another hash, or None for nobody; on return it is durable.
        hash_password: argon2id.
        fits: tells whether a password belongs to a hash.
        clock: seconds that only ever grow.
        own_code: the owner's own, from the card that the device started from, by which it is claimed the first time;
            empty for one that is made.
    """

    def __init__(
        self,
        kept: str | None,
        *,
        keep: Callable[[str | None], None],
        hash_password: Callable[[str], str],
        fits: Callable[[str, str], bool],
        clock: Callable[[], float],
        own_code: str = "",
    ) -> None:
        self._kept, self._keep = kept, keep
        self._hash, self._fits, self._clock = hash_password, fits, clock
        self._claims, self._logins = Patience(clock), Patience(clock)
        self._sessions: dict[str, _Session] = {}
        self._table = threading.Lock()
        """Held while sessions are looked at and changed: many requests come at once."""
        self._busy = threading.Lock()
        self.patience = 10.0
        """Seconds to wait while another answer is tried."""
        self._own = bool(own_code) and kept is None
        self._code = own_code if self._own else _new_code()

    @property
    def claimed(self) -> bool:
        """Whether the device has an administrator."""
        return self._kept is not None

    @property
    def code(self) -> str:
        """What a stranger has to know to claim the device; empty once that is done, and for the owner's own."""
        return "" if self.claimed or self._own else self._code

    @property
    def own_code(self) -> bool:
        """Whether it is claimed by the owner's own code."""
        return self._own and not self.claimed

    def claim(self, code: str, password: str) -> str:
        """Make whoever knows the code the administrator, with this password.

        The same once more, as a button sends it that is pressed twice, is a sign-in.

        Returns:
            The name of a new session.

        Raises:
            Denied: somebody has done so before, the code is wrong, or it cannot be the password.
            OSError: the password cannot be kept; the device stays unclaimed.
        """
        with self._only_one():
            if self._kept is not None:
                return self._claimed_twice(self._kept, code, password)
            self._claims.hear()
            if not self._is_code(code):
                self._claims.failed()
                own = f"that you gave to the build, or wrote to the card in {CODE_NAME}"
                where = own if self._own else "that the device shows"
                raise Denied(f"the code is not the one {where}")
            try:
                hashed = self._hash(check_password(password))
            except Refusal as refusal:
                raise Denied(f"found {refusal.found}, expected {refusal.expected}: {refusal.remedy}") from None
            self._keep(hashed)
            self._kept = hashed
            return self._begin()

    def sign_in(self, password: str) -> str:
        """Begin a session.

        Returns:
            Its name.

        Raises:
            Denied: the password is wrong, or nobody has claimed the device.
        """
        with self._only_one():
            if self._kept is None:
                raise Denied("the device has no administrator yet")
            self._logins.hear()
            if not self._fits(self._kept, password[:_LONGEST_TYPED]):
                self._logins.failed()
                raise Denied("this is not the password")
            self._logins.succeeded()
            return self._begin()

    def check(self, session: str) -> None:
        """Let somebody with a session pass; it lasts longer by that.

        Raises:
            SignedOut: it has ended, or there is none.
        """
        key, now = _key(session), self._clock()
        with self._table:
            found = self._sessions.get(key)
            if found is None or now - found.used > IDLE or now - found.began > LONGEST:
                self._sessions.pop(key, None)
                raise SignedOut
            self._sessions[key] = replace(found, used=now)

    def sign_out(self, session: str) -> None:
        """End a session, if there is one of that name."""
        with self._table:
            self._sessions.pop(_key(session), None)

    def forget(self) -> None:
        """Go back to a device that nobody has claimed, with another code; all sessions end.

        Raises:
            OSError: it cannot be kept; all stays as it was.
        """
        with self._busy:
            self._keep(None)
            self._kept = None
            with self._table:
                self._sessions.clear()
            self._own, self._code = False, _new_code()
            self._claims, self._logins = Patience(self._clock), Patience(self._clock)

    def _claimed_twice(self, kept: str, code: str, password: str) -> str:
        if self._is_code(code):
            self._claims.hear()
            if self._fits(kept, password[:_LONGEST_TYPED]):
                return self._begin()
            self._claims.failed()
        raise Denied("the device has an administrator already")

    def _is_code(self, typed: str) -> bool:
        bare = bare_code(typed) if self._own else "".join(filter(_is_digit, typed))
        return secrets.compare_digest(bare.encode(), self._code.encode())

    def _begin(self) -> str:
        name, now = secrets.token_urlsafe(32), self._clock()
        with self._table:
            while len(self._sessions) >= _MOST_SESSIONS:
                del self._sessions[min(self._sessions, key=lambda key: self._sessions[key].used)]
            self._sessions[_key(name)] = _Session(now, now)
        return name

    @contextmanager
    def _only_one(self) -> Iterator[None]:
        # argon2id would otherwise take the memory of several. Who presses a button twice waits for the first answer.
        if not self._busy.acquire(timeout=self.patience):
            raise Denied("another answer is being tried at this moment: again in some seconds")
        try:
            yield
        finally:
            self._busy.release()


def _new_code() -> str:
    return "".join(secrets.choice("0123456789") for _ in range(_CODE_DIGITS))


def _is_digit(character: str) -> bool:
    return character in "0123456789"


def _key(session: str) -> str:
    # Looked up by a hash: how long a look-up takes tells nothing of a name that somebody could get nearer to.
    return hashlib.sha256(session.encode(errors="replace")).hexdigest()
