"""The home page's cards: what of a status somebody wants to know at first sight."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from home.dns_judges import Outcome
from home.readings import Disk, Queue
from home.room import megabytes
from home.seen import DnsSeen
from home.status import CERTIFICATE_ENDS_SOON, LITTLE_FREE, LONG_IN_QUEUE, ServiceState, Status
from home.tunnel_state import Tunnel


class Mood(StrEnum):
    """How something stands; the page says it in a word and a sign, besides the colour."""

    GOOD = "good"
    WATCH = "watch"
    BAD = "bad"
    NONE = "none"
    """It is not there, which is no fault."""


@dataclass(frozen=True)
class Card:
    """One subject.

    Args:
        headline: the answer, in a few words.
        lines: what else there is to know.
        share: of the disk that is in use, from 0 to 1; None on all other cards.
        link: where there is more, and what it is called; empty for none.
    """

    title: str
    mood: Mood
    headline: str
    lines: tuple[str, ...] = ()
    share: float | None = None
    link: tuple[str, str] | tuple[()] = ()


def cards(status: Status, *, shown: bool = True, relay: bool = True) -> tuple[Card, ...]:
    """Give the cards of mail, relay, disk, DNS, queue, services and system, in this order.

    Args:
        shown: whether a pre-flight has shown that mail comes and goes.
        relay: whether the site names one.
    """
    now = status.clock.now
    return (
        _mail(status, shown=shown, relay=relay),
        _relay(status.tunnel, now),
        _disk(status.disk),
        _dns(status.seen.dns if status.seen else None),
        _queue(status.queue),
        _services(status.services),
        _system(status),
    )


def age(duration: timedelta) -> str:
    """Write a duration for people, in its largest unit: `3 days`."""
    seconds = max(0, int(duration.total_seconds()))
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60), ("second", 1)):
        if seconds >= length:
            number = seconds // length
            return f"{number} {unit}{'s' if number > 1 else ''}"
    return "a moment"


def _mail(status: Status, *, shown: bool, relay: bool) -> Card:
    if not status.ready:
        return Card("Mail", Mood.BAD, "No mail is taken", ("What keeps it away stands above.",))
    if not shown:
        why = "Whether it comes and goes through the relay, no pre-flight has shown."
        return Card("Mail", Mood.WATCH, "This device would take mail", (why,))
    if not relay:
        why = "Without a relay the world does not reach this device, and mail to others waits here."
        return Card("Mail", Mood.WATCH, "Mail is taken at home only", (why,), link=("/relay", "Give it a relay"))
    if status.problems:
        return Card("Mail", Mood.WATCH, "Mail is taken", ("Something wants your attention; it stands above.",))
    return Card("Mail", Mood.GOOD, "Mail is taken", ("Everything that was asked has answered.",))


def _relay(tunnel: Tunnel | None, now: datetime) -> Card:
    if tunnel is None or tunnel.relay is None:
        why = (tunnel.error,) if tunnel and tunnel.error else ("Mail to other servers waits here.",)
        return Card("Relay", Mood.BAD if tunnel else Mood.NONE, "There is none", why)
    since = f"for {age(now - tunnel.since)}"
    at = (tunnel.relay, *((f"at {tunnel.endpoint}",) if tunnel.endpoint else ()))
    heard = (
        () if tunnel.handshake_seconds is None else (f"heard {age(timedelta(seconds=tunnel.handshake_seconds))} ago",)
    )
    if not tunnel.up:
        return Card("Relay", Mood.BAD, f"Not reached {since}", at + ((tunnel.error,) if tunnel.error else ()))
    return Card("Relay", Mood.WATCH if tunnel.error else Mood.GOOD, f"Connected {since}", at + heard)


def _disk(disk: Disk | None) -> Card:
    if disk is None:
        return Card("Disk", Mood.BAD, "It does not answer")
    faults = [f"It cannot be written: {disk.write_error}"] if disk.write_error else []
    faults += [f"{number} errors of kind {name}" for name, number in sorted(disk.errors.items()) if number]
    free = disk.free / disk.size if disk.size else 0.0
    mood = Mood.BAD if disk.write_error else Mood.WATCH if faults or free < LITTLE_FREE else Mood.GOOD
    told = {True: ("It is encrypted.",), False: ("It is not encrypted: whoever takes it can read it.",), None: ()}
    lines = (*faults, *told[disk.encrypted])
    return Card("Disk", mood, f"{megabytes(disk.free)} of {megabytes(disk.size)} free", lines, 1.0 - free)


def _dns(seen: DnsSeen | None) -> Card:
    link = ("/dns/check", "Check the records")
    why = "Every name server of your domains is asked, which takes some seconds."
    if seen is None:
        return Card("DNS", Mood.NONE, "Nobody has looked", (why,), link=link)
    mood = {Outcome.GOOD: Mood.GOOD, Outcome.WARNING: Mood.GOOD, Outcome.WAITING: Mood.WATCH}
    return Card("DNS", mood.get(seen.worst, Mood.BAD), seen.found, (seen.when, why), link=link)


def _queue(queue: Queue | None) -> Card:
    if queue is None:
        return Card("Queue", Mood.WATCH, "It cannot be listed")
    total = sum(queue.messages.values())
    if not total:
        return Card("Queue", Mood.GOOD, "Nothing waits")
    parts = tuple(f"{number} {name}" for name, number in queue.messages.items() if number)
    oldest = () if queue.oldest_seconds is None else (f"the oldest for {age(timedelta(seconds=queue.oldest_seconds))}",)
    mood = Mood.WATCH if timedelta(seconds=queue.oldest_seconds or 0) > LONG_IN_QUEUE else Mood.GOOD
    return Card("Queue", mood, f"{total} message{'s' if total > 1 else ''} on the way", parts + oldest)


def _services(services: Sequence[ServiceState]) -> Card:
    bad = tuple(_complaints(services))
    if bad:
        return Card("Services", Mood.BAD, f"{len(bad)} of {len(services)} in trouble", bad)
    return Card("Services", Mood.GOOD, f"All {len(services)} are well")


def _complaints(services: Sequence[ServiceState]) -> Iterator[str]:
    for service in services:
        wrong = [probe.text for probe in service.probes if not probe.good]
        if wrong:
            yield f"{service.unit.name}: {wrong[0]}"
        elif service.unit.state not in {"active", "activating", "reloading"}:  # systemctl(1); these come by themselves
            yield f"{service.unit.name}: {service.unit.state}"


def _system(status: Status) -> Card:
    now = status.clock.now
    lines = [f"version {status.image.version} for {status.image.profile}", f"clock {now:%Y-%m-%d %H:%M} UTC"]
    for certificate in status.certificates:
        kind = "self-signed, " if certificate.self_signed else ""
        left = f"{age(certificate.expires - now)} left" if certificate.expires > now else "it has ended"
        lines.append(f"certificate {', '.join(certificate.names)}: {kind}{left}")
    if status.clock.synchronized is False:
        return Card("System", Mood.WATCH, "The clock is not confirmed", tuple(lines))
    if any(certificate.expires - now < CERTIFICATE_ENDS_SOON for certificate in status.certificates):
        return Card("System", Mood.WATCH, "The certificate is not renewed", tuple(lines))
    return Card("System", Mood.GOOD, "The system is up", tuple(lines))
