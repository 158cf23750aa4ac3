"""A disk that is to be unlocked, and a person at its console."""

from __future__ import annotations

from collections.abc import Callable

from firstboot.console_code import ConsoleCode
from firstboot.luks import LuksError
from firstboot.recovery import RecoverySecret
from firstboot.unlocking import Session

GOOD = "correct horse battery"
SECRET = RecoverySecret(bytes(16))
GROUPS = SECRET.groups


class Disk:
    """What a session does to the disk."""

    def __init__(self) -> None:
        self.made: list[tuple[bytes, RecoverySecret]] = []
        self.tried: list[str] = []
        self.broken = False
        self.now = 100.0

    def make(self, passphrase: bytes, secret: RecoverySecret, tell: Callable[[str], None]) -> None:
        tell("making")
        if self.broken:
            raise LuksError("no space")
        self.made.append((passphrase, secret))

    def unlock(self, typed: str) -> bool:
        self.tried.append(typed)
        if self.broken:
            raise LuksError("not enough memory")
        return typed in {GOOD, str(SECRET)}

    def session(self, *, new: bool, refused: str = "", code: ConsoleCode | None = None) -> Session:
        return Session(
            new=new,
            refused=refused,
            make=self.make,
            unlock=self.unlock,
            clock=lambda: self.now,
            secret=lambda: SECRET,
            asked=lambda: (2, 8),
            code=code,
        )


class Screen:
    """A person with a list of answers; None goes away until it is over."""

    def __init__(self, *answers: str | None) -> None:
        self.answers = list(answers)
        self.shown: list[str] = []
        self.hidden: list[bool] = []

    def show(self, text: str) -> None:
        self.shown.append(text)

    def ask(self, question: str, *, hidden: bool, until: Callable[[], bool]) -> str | None:
        self.shown.append(question)
        self.hidden.append(hidden)
        assert until is not None
        return self.answers.pop(0)
