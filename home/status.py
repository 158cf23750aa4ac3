"""The state of the device: what works, what does not, and what to do about it.

`ready` is the device's word to its relay: while it is true, mail may be handed over (design: home answers).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal, TypeVar

from home.drain_status import Waiting, read_waiting, waiting_problems
from home.readings import (
    FULL,
    Clock,
    Configuration,
    Disk,
    Image,
    Problem,
    Queue,
    Reading,
    Unit,
    read_clock,
    read_configuration,
    read_disk,
    read_failed_units,
    read_image,
    read_left_out,
    read_queue,
    read_units,
    unconfirmed_clock,
)
from home.room import LEAST_FREE, megabytes
from home.seen import Seen, read_seen
from home.store import Store, StoreError, read_accounts
from home.tunnel_state import Tunnel, read_tunnel
from stack.certificate import CertificateError, read_certificate
from stack.dkim import faults
from stack.health import DEADLINE, Finding, examine
from stack.pending import Late, Pending, begin
from stack.stack import Stack

_T = TypeVar("_T")
_Otherwise = TypeVar("_Otherwise")

_SETTINGS = frozenset({"darkpipe-settings.service", "darkpipe-login.service"})
"""What brings the device's settings into effect (`firstboot/settings.py`)."""

_PATIENCE = DEADLINE + 1.0
"""Seconds for a whole status: all is asked at once, and the probes have a deadline of their own."""

LITTLE_FREE = 0.1
"""Share of the disk; below it the owner is told in time."""

CERTIFICATE_ENDS_SOON = timedelta(days=14)
"""Renewal begins a month before the end: when two weeks are left, it has failed for a while."""

LONG_IN_QUEUE = timedelta(days=1)
"""Somebody waits for this message; a sender is told of a delay after hours (RFC 5321 §4.5.4.1 tries for days)."""


class Probed(Reading):
    """What a probe has found; see stack/probes.py."""

    probe: str
    target: str
    good: bool
    text: str
    to_receive: bool


class ServiceState(Reading):
    """A service: what systemd thinks of it, and what it answers."""

    unit: Unit
    probes: tuple[Probed, ...]


class CertificateState(Reading):
    """A certificate in use."""

    path: str
    names: tuple[str, ...]
    expires: datetime
    self_signed: bool


class Status(Reading):
    """All of it, as `darkpipe status --json` prints it.

    Args:
        format: number of this format; it changes when a field goes or means something else.
        seen: what was looked at last in DNS and by a pre-flight; None when the disk does not say.
    """

    format: Literal[1] = 1
    ready: bool
    problems: tuple[Problem, ...]
    image: Image
    configuration: Configuration | None
    disk: Disk | None
    queue: Queue | None
    services: tuple[ServiceState, ...]
    certificates: tuple[CertificateState, ...]
    clock: Clock
    tunnel: Tunnel | None
    waiting: Waiting | None
    seen: Seen | None


@dataclass(frozen=True)
class Readiness:
    """Whether mail may be handed over, and if not, why."""

    ready: bool
    reasons: tuple[str, ...]


def readiness(stack: Stack, folder: Path) -> Readiness:
    """Tell whether the device takes mail: queue writable, delivery and filters answer, data there and not full.

    It is done within `DEADLINE` and a second, whatever hangs, and leaves nothing behind but a line in a log.

    Args:
        folder: on the disk with the data, one that may be written in.
    """
    end = time.monotonic() + _PATIENCE
    disks = begin(read_disk, folder)
    problems = list(_probe_problems(examine(stack, to_receive=True)))
    _judge(disks, end, "the data disk", _disk_problems, problems, blocks_mail=True)
    return _readiness(problems)


def read_status(stack: Stack, store: Store) -> Status:
    """Examine the whole device; it is done within `DEADLINE` and a second, whatever hangs."""
    names = [service.name for service in stack.services]
    end = time.monotonic() + _PATIENCE
    disks, queues, clocks = begin(read_disk, store.data / "darkpipe"), begin(read_queue), begin(read_clock)
    configurations, read = begin(read_configuration, store), begin(_certificates, [store.certificate])
    states, failures = begin(read_units, names), begin(read_failed_units)
    signing, waits, looks = begin(_dkim_faults, store), begin(read_waiting), begin(read_seen, store)

    findings = examine(stack)
    queue = _or(queues, end, None)
    clock = _or(clocks, end, None) or unconfirmed_clock()
    units = _or(states, end, tuple(Unit(name=name, state="unknown", since=None) for name in names))
    failed = _or(failures, end, ())
    problems: list[Problem] = []
    disk = _judge(disks, end, "the data disk", _disk_problems, problems, blocks_mail=True)
    problems += _unit_problems(units, failed, read_left_out())
    problems += _probe_problems(findings)
    problems += _queue_problems(queue)
    configuration = _judge(configurations, end, "the configuration", _configuration_problems, problems)
    certified = _judge(
        read, end, "the certificate", lambda it: [*it[1], *_certificate_problems(it[0], clock.now)], problems
    )
    _judge(signing, end, "the keys for signing", _dkim_problems, problems)
    problems += _clock_problems(clock)
    waiting = _judge(waits, end, "the quarantine", waiting_problems, problems)
    seen = _judge(looks, end, "what was looked at last", lambda _: (), problems)
    tunnel = read_tunnel()
    problems += _tunnel_problems(tunnel)
    return Status(
        ready=_readiness(problems).ready,
        problems=tuple(problems),
        image=read_image(),
        configuration=configuration,
        disk=disk,
        queue=queue,
        services=tuple(_service_state(unit, findings) for unit in units),
        certificates=certified[0] if certified else (),
        clock=clock,
        tunnel=tunnel,
        waiting=waiting,
        seen=seen,
    )


def _or(reading: Pending[_T], end: float, otherwise: _Otherwise) -> _T | _Otherwise:
    """Take what was read, or something else when it is not there in time."""
    try:
        return reading.result(end)
    except Late:
        return otherwise


def _judge(
    reading: Pending[_T],
    end: float,
    what: str,
    problems_of: Callable[[_T], Iterable[Problem]],
    problems: list[Problem],
    *,
    blocks_mail: bool = False,
) -> _T | None:
    """Take what was read from the disk and add what is wrong with it; a disk that hangs or fails is such a problem."""
    try:
        found = reading.result(end)
    except (Late, OSError) as error:
        why = "the disk does not answer" if isinstance(error, Late) else str(error)
        remedy = "see what the kernel says of the disk: journalctl -b -k"
        problems.append(Problem(found=f"{what} cannot be read: {why}", remedy=remedy, blocks_mail=blocks_mail))
        return None
    problems += problems_of(found)
    return found


def _readiness(problems: Iterable[Problem]) -> Readiness:
    reasons = tuple(problem.found for problem in problems if problem.blocks_mail)
    return Readiness(not reasons, reasons)


def _service_state(unit: Unit, findings: Sequence[Finding]) -> ServiceState:
    return ServiceState(
        unit=unit,
        probes=tuple(
            Probed(
                probe=finding.health.probe,
                target=finding.health.target,
                good=finding.good,
                text=finding.text,
                to_receive=finding.health.to_receive,
            )
            for finding in findings
            if finding.service.name == unit.name
        ),
    )


def _certificates(paths: Iterable[Path]) -> tuple[tuple[CertificateState, ...], list[Problem]]:
    found, broken = [], []
    for path in paths:
        try:
            read = read_certificate(path)
        except CertificateError as error:
            broken.append(Problem(found=str(error), remedy="make a new one: darkpipe apply"))
            continue
        found.append(
            CertificateState(path=str(path), names=read.names, expires=read.expires, self_signed=read.self_signed)
        )
    return tuple(found), broken


def _disk_problems(disk: Disk | None) -> Iterator[Problem]:
    if disk is None:
        yield Problem(
            found="the data disk is not mounted",
            remedy="unlock it (darkpipe disk unlock), or see why: journalctl -b -u darkpipe-disk",
            blocks_mail=True,
        )
        return
    if disk.write_error not in {None, FULL}:
        yield Problem(
            found=f"the data disk cannot be written: {disk.write_error}",
            remedy="see what the kernel says of it: journalctl -b -k; a disk that fails must be replaced",
            blocks_mail=True,
        )
    # btrfs can have no place for another file while it still has some for data.
    if disk.free < LEAST_FREE or disk.write_error == FULL:
        yield Problem(
            found=f"the data disk is full: {megabytes(disk.free)} are free, {megabytes(LEAST_FREE)} are needed",
            remedy="delete mail that nobody needs, here and in quarantine (darkpipe quarantine list), or move to a "
            "larger disk",
            blocks_mail=True,
        )
    elif disk.free < LITTLE_FREE * disk.size:
        yield Problem(
            found=f"the data disk is nearly full: {megabytes(disk.free)} of {megabytes(disk.size)} are free",
            remedy="delete mail that nobody needs, or plan for a larger disk",
        )
    if counted := {name: number for name, number in disk.errors.items() if number}:
        listed = ", ".join(f"{number} {name}" for name, number in counted.items())
        yield Problem(
            found=f"the data disk has made errors: {listed}",
            remedy="copy your mail and replace the disk: it is failing",
        )


def _unit_problems(units: Iterable[Unit], failed: Collection[str], left_out: str) -> Iterator[Problem]:
    named = set()
    for unit in units:
        named.add(f"{unit.name}.service")
        if unit.state != "active":
            yield Problem(
                found=f"the service {unit.name} is {unit.state}",
                remedy=f"see why: journalctl -b -u {unit.name}; start it: systemctl start {unit.name}",
            )
    if left_out and not _SETTINGS.isdisjoint(failed):
        # Whoever has no login by this very fault cannot look into the journal.
        named |= _SETTINGS
        found = f"not all settings of the device are in effect (darkpipe-settings): {left_out}"
        yield Problem(found=found, remedy="mend that, and start the device again")
    for name in failed:
        if name not in named:
            yield Problem(
                found=f"the unit {name} has failed",
                remedy=f"see why: journalctl -b -u {name}; try again: systemctl restart {name}",
            )


def _probe_problems(findings: Iterable[Finding]) -> Iterator[Problem]:
    for finding in findings:
        if not finding.good:
            name = finding.service.name
            yield Problem(
                found=f"{name} does not work ({finding.health.probe}): {finding.text}",
                remedy=f"see what it says: journalctl -b -u {name}; start it anew: systemctl restart {name}",
                blocks_mail=finding.health.to_receive,
            )


def _queue_problems(queue: Queue | None) -> Iterator[Problem]:
    if queue is None:
        yield Problem(found="Postfix cannot list its queue", remedy="see why: journalctl -b -u postfix")
    elif queue.oldest_seconds is not None and queue.oldest_seconds > LONG_IN_QUEUE.total_seconds():
        yield Problem(
            found=f"a message has waited in the queue for {queue.oldest_seconds // 86400} days",
            remedy="see which, and why: postqueue -p",
        )


def _configuration_problems(configuration: Configuration) -> Iterator[Problem]:
    if configuration.generation is None:
        yield Problem(
            found="no configuration is in force yet",
            remedy="give the device its site, then: darkpipe apply",
            blocks_mail=True,
        )
    if configuration.refused:
        yield Problem(
            found="the latest configuration was refused by a service; the one before it is in force",
            remedy="see why: darkpipe apply",
        )
    for name in configuration.waiting:
        found = f"{name} was not restarted since the configuration has changed"
        yield Problem(found=found, remedy="have it done: darkpipe apply")


def _certificate_problems(certificates: Iterable[CertificateState], now: datetime) -> Iterator[Problem]:
    for certificate in certificates:
        left = certificate.expires - now
        if left < CERTIFICATE_ENDS_SOON:
            ends = f"has ended {-left.days} days ago" if left < timedelta(0) else f"ends in {left.days} days"
            yield Problem(
                found=f"the certificate for {', '.join(certificate.names)} {ends}",
                remedy="make a new one: darkpipe apply",
            )


def _dkim_faults(store: Store) -> Sequence[str]:
    try:
        accounts = read_accounts(store.accounts)
    except StoreError as error:
        return (str(error),)
    return faults(store.dkim_keys, [domain.name for domain in accounts.domains]) if accounts else ()


def _dkim_problems(found: Iterable[str]) -> Iterator[Problem]:
    for text in found:
        yield Problem(
            found=f"outgoing mail is not signed with every key: {text}",
            remedy="bring the key back from a backup; or remove its file, run `darkpipe apply`, and publish what "
            "`darkpipe dkim` shows then in the place of the old record",
        )


def _clock_problems(clock: Clock) -> Iterator[Problem]:
    if clock.now < clock.built:
        yield Problem(
            found=f"the clock shows {clock.now:%Y-%m-%d}, and this system was built on {clock.built:%Y-%m-%d}",
            remedy="is the network up, so that a time server can be asked? See: timedatectl timesync-status",
        )
    if clock.synchronized is False:
        late = "" if clock.kept else " and may be late: it stops without power"
        yield Problem(
            found="no time server has confirmed the clock since the start; "
            f"it shows {clock.now.astimezone(UTC):%Y-%m-%d %H:%M} UTC{late}",
            remedy="is the network up? See: timedatectl timesync-status",
        )


def _tunnel_problems(tunnel: Tunnel | None) -> Iterator[Problem]:
    # None of it keeps mail away: the relay sees for itself whether it reaches home, and what goes out waits here.
    if tunnel is None or (tunnel.up and tunnel.error is None):
        return
    why = f": {tunnel.error}" if tunnel.error else ""
    if tunnel.relay is None:
        remedy = "give the device its half of the relay's keys again; see: journalctl -b -u darkpipe-tunnel"
        yield Problem(found=f"there is no tunnel to the relay{why}", remedy=remedy)
        return
    state = "is troubled" if tunnel.up else f"is down since {tunnel.since:%Y-%m-%d %H:%M} UTC"
    yield Problem(
        found=f"the tunnel to {tunnel.relay} {state}{why}",
        remedy="was the relay ordered, and does it run? Does its name lead to it in DNS? Does its provider let the "
        "tunnel in, UDP port 51820 or, for OpenVPN, TCP port 1194? Is this device on the Internet? "
        "See: journalctl -b -u darkpipe-tunnel",
    )
