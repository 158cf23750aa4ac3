"""`darkpipe relay`: the relay, and what waits on it, seen from home."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import click

from home.command import HELP, in_words, json_option, print_json, print_table
from home.drain_state import Doing, Drained, read_drained
from home.tunnel_state import Tunnel, read_tunnel
from model.control import QueueStatus

_SAID = {
    Doing.UNPAIRED: "home is not paired with a relay",
    Doing.AWAY: "waits: the tunnel is down, or home takes no mail now",
    Doing.DRAINING: "fetches what waits",
    Doing.EMPTY: "has fetched all",
    Doing.PAUSED: "waits",
    Doing.FENCED: "is shut out: another home has taken this one's place",
}


@click.group(context_settings=HELP)
def relay() -> None:
    """The relay.

    \b
    Examples:
      darkpipe relay status
    """


@relay.command("status")
@json_option
def status(as_json: bool) -> None:
    """Show the relay's queue as the relay has told it last, and how fetching goes.

    \b
    Example:
      darkpipe relay status --json
    """
    with in_words(as_json=as_json):
        tunnel, drain = read_tunnel(), read_drained()
        if as_json:
            print_json(as_data(tunnel, drain))
            return
        print_table(rows(tunnel, drain, datetime.now(UTC), time.monotonic()))


def as_data(tunnel: Tunnel | None, drain: Drained | None) -> Mapping[str, Any]:
    """Give the status for programs."""
    return {
        "tunnel": tunnel.model_dump(mode="json") if tunnel else None,
        "drain": drain.model_dump(mode="json", exclude={"relay", "written", "since"}) if drain else None,
        "queue": drain.model_dump(mode="json")["relay"] if drain else None,
    }


def rows(tunnel: Tunnel | None, drain: Drained | None, clock: datetime, now: float) -> Sequence[tuple[str, str]]:
    """Give the status for people.

    Args:
        clock, now: the same moment, by the clock on the wall and in seconds of CLOCK_MONOTONIC.
    """
    if tunnel is None:
        return [("relay", "none is known to this home")]
    found = [("relay", tunnel.relay or "-"), ("tunnel", "up" if tunnel.up else f"down: {tunnel.error or 'no answer'}")]
    if drain is None:
        return [*found, ("drain", "does not say how it is: journalctl -b -u darkpipe-drain")]
    found.append(("drain", _drain_text(drain, now)))
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
