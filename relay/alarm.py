"""Alarms out of band: a locked or a dead home cannot tell its owner that mail piles up on the relay.

`QueueSettings.alarm` says where they go: `webhook`, a URL (https) that gets a POST of JSON, and `mail`, an address at
another provider, whose server gets it straight from the relay.
"""

from __future__ import annotations

import email.utils
import json
import secrets
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import StrEnum
from http.client import HTTPException
from typing import Any

from relay.delivery import LaterError, NeverError

AGAIN = 24 * 3600.0
"""Seconds until an alarm that still holds is told again."""

_SECONDS = 30.0

Post = Callable[[str, bytes], None]
"""Posts JSON to a URL; raises OSError or HTTPException, which is none."""
Mailed = Callable[[bytes, str], None]
"""Sends a message to an address; raises LaterError or NeverError."""


class Kind(StrEnum):
    """What is told."""

    AWAY = "away"
    """Home has not been there for long."""
    BUDGET = "budget"
    """What waits has taken most of its budget."""


@dataclass(frozen=True)
class Alarm:
    """One thing to tell.

    Args:
        over: whether it is the all-clear.
        text: a sentence for a person, without addresses.
    """

    kind: Kind
    over: bool
    text: str


@dataclass(frozen=True)
class Told:
    """What was told of each kind, and when: seconds since 1970 by the kind's name; no entry after an all-clear."""

    times: Mapping[str, float]

    def to_json(self) -> bytes:
        """Write it."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def read(cls, octets: bytes) -> Told:
        """Read it; from what cannot be read, nothing was told."""
        try:
            times = json.loads(octets)["times"]
            return cls({str(kind): float(when) for kind, when in times.items()})
        except (ValueError, LookupError, TypeError, AttributeError):
            return cls({})


def due(told: Told, holds: Mapping[Kind, str | None], now: float) -> list[Alarm]:
    """Say what is to be told now: once per episode, then daily, and the all-clear at its end.

    Args:
        holds: for each kind the sentence when it holds, else None.
        now: seconds since 1970.
    """
    found = []
    for kind, text in holds.items():
        last = told.times.get(kind)
        # A clock that was set back must not silence an alarm.
        if text and (last is None or not 0 <= now - last < AGAIN):
            found.append(Alarm(kind, False, text))
        elif not text and last is not None:
            found.append(Alarm(kind, True, "home is back" if kind is Kind.AWAY else "there is room again"))
    return found


def after(told: Told, alarm: Alarm, now: float) -> Told:
    """Give what is told after an alarm has gone out."""
    others = {kind: when for kind, when in told.times.items() if kind != alarm.kind}
    return Told(others if alarm.over else {**others, str(alarm.kind): now})


def tell(alarm: Alarm, settings: Mapping[str, Any], name: str, now: float, post: Post, mailed: Mailed) -> list[str]:
    """Send an alarm wherever the settings say.

    Args:
        name: of the relay.
        now: seconds since 1970.

    Returns:
        What went wrong, without addresses; it has reached somebody when there are fewer of these than ways.
    """
    problems = []
    if url := settings.get("webhook"):
        told = {"relay": name, "alarm": str(alarm.kind), "over": alarm.over, "text": alarm.text, "time": int(now)}
        try:
            post(str(url), json.dumps(told).encode())
        except (OSError, HTTPException, ValueError) as error:
            problems.append(f"the webhook: {type(error).__name__}")
    if address := settings.get("mail"):
        try:
            mailed(_letter(alarm, str(address), name, now), str(address))
        except (LaterError, NeverError) as error:
            problems.append(f"the mail: {error}")
    return problems


def _letter(alarm: Alarm, address: str, name: str, now: float) -> bytes:
    state = "all clear" if alarm.over else "alarm"
    lines = [
        f"From: DarkPipe relay <relay@{name}>",
        f"To: <{address}>",
        f"Subject: {name}: {state}: {alarm.text}",
        f"Date: {email.utils.format_datetime(datetime.fromtimestamp(now, UTC))}",
        f"Message-ID: <{secrets.token_hex(16)}@{name}>",
        "Auto-Submitted: auto-generated",
        "MIME-Version: 1.0",
        "Content-Type: text/plain; charset=us-ascii",
        "",
        f"The relay {name} says: {alarm.text}.",
        "",
    ]
    return "\r\n".join(lines).encode()


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """What was to go to one place goes to no other."""

    def redirect_request(self, *_: Any) -> None:
        return None


def post_https(url: str, content: bytes) -> None:
    """Post JSON; a `Post`.

    Raises:
        OSError, HTTPException: it was not taken.
        ValueError: the URL is none of https.
    """
    if not url.startswith("https://"):
        raise ValueError("no https URL")
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(url, content, headers, method="POST")  # noqa: S310 (it is https)
    opener = urllib.request.build_opener(_NoRedirect)
    with opener.open(request, timeout=_SECONDS) as answer, suppress(OSError, HTTPException):  # it has it
        answer.read(1000)
