"""The state of the device: what works, what does not, and what to do about it.

`ready` is the device's word to its relay: while it is true, mail may be handed over (design: home answers).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

from home.readings import (
    Clock,
    Configuration,
    Disk,
    Queue,
    Reading,
    Unit,
    read_clock,
    read_configuration,
    read_disk,
    read_queue,
    read_units,
)
from home.store import Store
from stack.certificate import CertificateError, read_certificate
from stack.health import Finding, examine
from stack.stack import Stack

LEAST_FREE = 512 * 2**20
"""Bytes. Postfix refuses mail when less than 1.5 messages of the largest size (75 MiB) fit; each lies in the queue
and in a mailbox for a moment, and the journal and a new configuration want to be written as well."""

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


class Problem(Reading):
    """Something that is not as it should be.

    Args:
        blocks_mail: whether no mail can be received because of it.
    """

    found: str
    remedy: str
    blocks_mail: bool = False


class Status(Reading):
    """All of it, as `darkpipe status --json` prints it.

    Args:
        format: number of this format; it changes when a field goes or means something else.
    """

    format: Literal[1] = 1
    ready: bool
    problems: tuple[Problem, ...]
    configuration: Configuration
    disk: Disk | None
    queue: Queue | None
    services: tuple[ServiceState, ...]
    certificates: tuple[CertificateState, ...]
    clock: Clock


@dataclass(frozen=True)
class Readiness:
    """Whether mail may be handed over, and if not, why."""

    ready: bool
    reasons: tuple[str, ...]


def readiness(stack: Stack, store: Store) -> Readiness:
    """Tell whether the device takes mail: queue writable, delivery and filters answer, data there and not full."""
    problems = [*_disk_problems(read_disk(store.data)), *_probe_problems(examine(stack))]
    return _readiness(problems)


def read_status(stack: Stack, store: Store) -> Status:
    """Examine the whole device; it takes no longer than the slowest probe may."""
    findings = examine(stack)
    units = read_units([service.name for service in stack.services])
    disk, queue, clock = read_disk(store.data), read_queue(), read_clock()
    configuration = read_configuration(store.configurations)
    certificates, broken = _certificates([store.certificate])
    problems = [
        *_disk_problems(disk),
        *_unit_problems(units),
        *_probe_problems(findings),
        *_queue_problems(queue),
        *_configuration_problems(configuration),
        *broken,
        *_certificate_problems(certificates, clock.now),
        *_clock_problems(clock),
    ]
    return Status(
        ready=_readiness(problems).ready,
        problems=tuple(problems),
        configuration=configuration,
        disk=disk,
        queue=queue,
        services=tuple(_service_state(unit, findings) for unit in units),
        certificates=certificates,
        clock=clock,
    )


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
            remedy="see why: journalctl -b -u darkpipe-disk",
            blocks_mail=True,
        )
        return
    if not disk.writable:
        yield Problem(
            found="the data disk cannot be written",
            remedy="see what the kernel says of it: journalctl -b -k; a disk that fails must be replaced",
            blocks_mail=True,
        )
    if disk.free < LEAST_FREE:
        yield Problem(
            found=f"the data disk is full: {megabytes(disk.free)} are free, {megabytes(LEAST_FREE)} are needed",
            remedy="delete mail that nobody needs, or move to a larger disk",
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


def _unit_problems(units: Iterable[Unit]) -> Iterator[Problem]:
    for unit in units:
        if unit.state != "active":
            yield Problem(
                found=f"the service {unit.name} is {unit.state}",
                remedy=f"see why: journalctl -b -u {unit.name}; start it: systemctl start {unit.name}",
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


def _certificate_problems(certificates: Iterable[CertificateState], now: datetime) -> Iterator[Problem]:
    for certificate in certificates:
        left = certificate.expires - now
        if left < CERTIFICATE_ENDS_SOON:
            ends = f"has ended {-left.days} days ago" if left < timedelta(0) else f"ends in {left.days} days"
            yield Problem(
                found=f"the certificate for {', '.join(certificate.names)} {ends}",
                remedy="make a new one: darkpipe apply",
            )


def _clock_problems(clock: Clock) -> Iterator[Problem]:
    if clock.synchronized is False:
        yield Problem(
            found=f"no time server has confirmed the clock, which shows {clock.now.astimezone(UTC):%Y-%m-%d %H:%M} UTC",
            remedy="is the network up? See: timedatectl timesync-status",
        )


def megabytes(number: int) -> str:
    """Write a number of bytes for people."""
    return f"{number / 10**9:.1f} GB" if number >= 10**9 else f"{number / 10**6:.0f} MB"
