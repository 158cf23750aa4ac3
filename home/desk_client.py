"""How page and command ask darkpipe-desk, which knows the administrator's password and may look at the whole device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from firstboot.questions import ask
from home.administrator import Denied, SignedOut
from home.desk_facts import Facts
from home.hand_questions import Question, ShowRelay
from home.relay_view import RelayView
from home.status import Status

SOCKET = Path("/run/darkpipe-desk/control")
GROUP = "darkpipe-desk"

_SECONDS = 160.0
"""The checks of DNS take less than a minute, whatever hangs; a change of the accounts may take longer."""


@dataclass(frozen=True)
class Seen:
    """What anybody may see; code and fingerprint are for root alone, and empty for others.

    Args:
        claimed: whether the device has an administrator.
        code: what the page asks for until then.
        fingerprint: of the page's certificate, SHA-256.
        own_code: whether that is the owner's own, which is not shown.
    """

    claimed: bool
    code: str = ""
    fingerprint: str = ""
    own_code: bool = False


class DeskClient:
    """Asks; each question on a connection of its own.

    Raises (all methods):
        Denied: with the text of the other side, or when there is none.
        SignedOut: the session has ended.
    """

    def __init__(self, path: Path = SOCKET) -> None:
        self._path = path

    def see(self) -> Seen:
        """Ask whether somebody has claimed the device."""
        answer = self._ask("see")
        return Seen(answer["claimed"], answer["code"], answer["fingerprint"], answer["own_code"])

    def claim(self, code: str, password: str) -> str:
        """Become the administrator; gives a session."""
        return str(self._ask("claim", code=code, password=password)["session"])

    def sign_in(self, password: str) -> str:
        """Begin a session."""
        return str(self._ask("sign-in", password=password)["session"])

    def sign_out(self, session: str) -> None:
        """End a session."""
        self._ask("sign-out", session=session)

    def check(self, session: str) -> None:
        """Ask whether a session lasts."""
        self._ask("check", session=session)

    def status(self, session: str) -> Status:
        """Ask how the device is."""
        return Status.model_validate(self._ask("status", session=session)["status"])

    def records(self, session: str, *, check: bool) -> Mapping[str, Any]:
        """Ask what has to stand in DNS.

        Args:
            check: whether the name servers are asked what stands there.

        Returns:
            `records`: as `darkpipe dns records --json` prints them, or `darkpipe dns check --json`; `unknown`: what is
            missing, and `doubts`: what may be wrong, in words; `zone`: the text of a zone file.
        """
        return self._ask("dns", session=session, check=check)

    def facts(self, session: str) -> Facts:
        """Ask how far the device is with what it takes until mail comes and goes."""
        return Facts.model_validate(self._ask("facts", session=session)["facts"])

    def relay(self, session: str) -> RelayView:
        """Ask for the relay's user-data."""
        return RelayView.model_validate(self.change(session, ShowRelay())["relay"])

    def change(self, session: str, question: Question) -> Mapping[str, Any]:
        """Have the device changed; returns when it is done, and what has to be said besides."""
        return self._ask("hand", session=session, ask=question.model_dump(mode="json"))

    def forget(self) -> None:
        """Take the administrator's password away; for root."""
        self._ask("forget")

    def _ask(self, do: str, **more: str | bool | Mapping[str, Any]) -> Mapping[str, Any]:
        answer = ask(self._path, {"do": do, **more}, _SECONDS)
        if answer is None:
            raise Denied("the device does not answer; it may be starting: again in a minute")
        if "refused" in answer:
            raise Denied(answer["refused"])
        if "signed-out" in answer:
            raise SignedOut
        return answer
