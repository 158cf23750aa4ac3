"""`darkpipe status` and `darkpipe probe`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import click

from home.command import for_root
from home.room import megabytes
from home.seen import Seen
from home.status import ServiceState, Status, read_status
from home.store import Store
from home.tunnel_state import Tunnel
from stack.probes import ProbeError, ProbeKind, probe
from stack.stack import COMPONENTS, Stack


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print all of it as JSON.")
def status(as_json: bool) -> None:
    """Show the state of the device.

    Every service is asked for what it is there for. The exit status is 0 when the device takes mail, and 1 when it does
    not; problems that do not keep mail away do not change it. It is 2 for whoever is not root, and cannot see that.

    \b
    Examples:
      darkpipe status
      darkpipe status --json | jq .queue
    """
    # Who may not look would be told of a disk that fails, and of services that do not answer.
    if refused := for_root():
        click.echo(refused, err=True)
        sys.exit(2)
    found = read_status(Stack.load(COMPONENTS), Store())
    click.echo(found.model_dump_json(indent=1) if as_json else "\n".join(lines(found)))
    sys.exit(0 if found.ready else 1)


@click.command("probe")
@click.argument("kind", type=click.Choice([str(kind) for kind in ProbeKind]))
@click.argument("target")
def probe_command(kind: str, target: str) -> None:
    """Ask one service for what it is there for: KIND is the protocol, TARGET host:port or the path of a socket.

    \b
    Examples:
      darkpipe probe smtp 127.0.0.1:25
      darkpipe probe lmtp /run/dovecot-postfix/lmtp
    """
    try:
        click.echo(f"{target}: {probe(ProbeKind(kind), target)}")
    except ProbeError as error:
        click.echo(str(error), err=True)
        sys.exit(1)


def lines(status: Status) -> Iterator[str]:
    """Write a status for people: the answer first, then what is wrong, then the rest."""
    yield _answer(status)
    for problem in status.problems:
        yield f"  {'!!' if problem.blocks_mail else ' !'} {problem.found}"
        yield f"     {problem.remedy}"
    yield ""
    for service in status.services:
        yield from _service_lines(service, status.clock.now)
    yield ""
    if status.disk:
        encrypted = {True: ", encrypted", False: ", not encrypted", None: ""}[status.disk.encrypted]
        yield f"disk           {megabytes(status.disk.free)} of {megabytes(status.disk.size)} free{encrypted}"
    if status.queue:
        parts = [f"{number} {name}" for name, number in status.queue.messages.items() if number]
        yield f"queue          {', '.join(parts) or 'empty'}"
    for certificate in status.certificates:
        kind = "self-signed, " if certificate.self_signed else ""
        left = (certificate.expires - status.clock.now).days
        yield f"certificate    {', '.join(certificate.names)}: {kind}{left} days left"
    if status.tunnel:
        yield f"tunnel         {_tunnel_line(status.tunnel, status.clock.now)}"
    yield from _seen_lines(status.seen)
    configuration = status.configuration
    yield f"configuration  {(configuration and configuration.generation) or 'none'}"
    yield f"image          {status.image.version} for {status.image.profile} ({status.image.project[:16]})"
    unconfirmed = "not confirmed" if status.clock.kept else "not confirmed since the start: may be late"
    known = {True: "confirmed by a time server", False: unconfirmed, None: "set by the host"}
    yield f"clock          {status.clock.now:%Y-%m-%d %H:%M:%S} UTC, {known[status.clock.synchronized]}"


def _answer(status: Status) -> str:
    if not status.ready:
        return "NOT READY: no mail is taken"
    if status.seen is None or not status.seen.shows_mail:
        return "ready: mail would be taken; whether it comes and goes through the relay, no pre-flight has shown"
    return "ready: mail is taken"


def _seen_lines(seen: Seen | None) -> Iterator[str]:
    if seen is None:
        return
    yield f"dns            {seen.dns.text if seen.dns else 'Nobody has looked: darkpipe dns check'}"
    if seen.relay:
        yield f"preflight      {seen.preflight.text if seen.preflight else 'Nobody has looked: darkpipe preflight'}"


def _service_lines(service: ServiceState, now: datetime) -> Iterator[str]:
    since = f" for {_age(now - service.unit.since.astimezone(UTC))}" if service.unit.since else ""
    yield f"{service.unit.name:20} {service.unit.state}{since}"
    for found in service.probes:
        yield f"  {found.probe:18} {'good' if found.good else 'BAD'}: {found.text}"


def _tunnel_line(tunnel: Tunnel, now: datetime) -> str:
    if tunnel.relay is None:
        return "none"
    heard = "" if tunnel.handshake_seconds is None else f", last handshake {tunnel.handshake_seconds} s ago"
    at = f" at {tunnel.endpoint}" if tunnel.endpoint else ""
    return f"{'up' if tunnel.up else 'DOWN'} for {_age(now - tunnel.since)}, to {tunnel.relay}{at}{heard}"


def _age(duration: timedelta) -> str:
    """`3 days, 4:05:06`."""
    return str(timedelta(seconds=int(duration.total_seconds())))
