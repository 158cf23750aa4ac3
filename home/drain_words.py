"""The relay's queue and the drain in words, for `darkpipe relay status`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from home.drain_state import Doing, Drained
from model.control import QueueStatus

_SAID = {
    Doing.UNPAIRED: "home is not paired with a relay",
    Doing.AWAY: "waits: the tunnel is down, or home takes no mail now",
    Doing.DRAINING: "fetches what waits",
    Doing.EMPTY: "has fetched all",
    Doing.PAUSED: "waits",
    Doing.FENCED: "is shut out: another home has taken this one's place",
}


def as_data(drain: Drained | None) -> Mapping[str, Any]:
    """Give `drain` and `queue` for programs."""
    return {
        "drain": drain.model_dump(mode="json", exclude={"relay", "written", "since"}) if drain else None,
        "queue": drain.model_dump(mode="json")["relay"] if drain else None,
    }


def rows(drain: Drained | None, clock: datetime, now: float) -> Sequence[tuple[str, str]]:
    """Give them for people, as names and texts.

    Args:
        clock, now: the same moment, by the clock on the wall and in seconds of CLOCK_MONOTONIC.
    """
    if drain is None:
        return [("drain", "does not say how it is: journalctl -b -u darkpipe-drain")]
    found = [("drain", _drain_text(drain, now))]
    if drain.trouble:
        found.append(("trouble", drain.trouble))
    return [*found, *(_queue_rows(drain.relay, clock) if drain.relay else ())]


def _drain_text(drain: Drained, now: float) -> str:
    text = _SAID[drain.doing]
    if drain.doing is Doing.DRAINING:
        spent = max(now - drain.since, 0.001)
        text += f": {drain.items} so far, {drain.items / spent:.1f} messages/s, {drain.octets / spent / 1e6:.1f} MB/s"
    return f"{text}; {drain.put_off} are tried again later" if drain.put_off else text


def _queue_rows(queue: QueueStatus, clock: datetime) -> Iterable[tuple[str, str]]:
    share = queue.octets * 100 // max(queue.budget, 1)
    yield "queue", f"{queue.count} messages, {_megabytes(queue.octets)} of {_megabytes(queue.budget)} ({share} %)"
    if queue.oldest is not None:
        yield "oldest", _moment(queue.oldest, clock)
    yield "drained", _moment(queue.drained, clock) if queue.drained is not None else "never"
    if queue.overdue:
        yield "overdue", f"{queue.overdue} messages are kept beyond their time: their senders cannot be told"
    for fault in queue.faults:
        yield "fault", f"{fault.found}, {_moment(fault.since, clock)}; {fault.remedy}"


def _moment(milliseconds: int, clock: datetime) -> str:
    moment = datetime.fromtimestamp(milliseconds / 1000, UTC)
    seconds = max(int((clock - moment).total_seconds()), 0)
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{moment:%Y-%m-%d %H:%M} UTC ({seconds // length} {unit} ago)"
    return f"{moment:%Y-%m-%d %H:%M} UTC ({seconds} seconds ago)"


def _megabytes(octets: int) -> str:
    return f"{octets / 1e9:.1f} GB" if octets >= 10**9 else f"{octets / 1e6:.1f} MB"
