"""The files of a relay: what `relay-cloudinit/files` and `relay/system` become for one site."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bootstrap.server import BASE, context, rendered
from model.control import QueueSettings
from model.mtls import AnyRelay
from relay.render import RelayFile

SYSTEM = Path(__file__).resolve().parent.parent / "relay/system"
"""What makes a relay of a server; laid out as `/`, and what ends in `.j2` is a template."""

_TANG = ("/etc/systemd/system/darkpipe-tang",)
"""What it has only when home has its disk unlocked by it."""


@dataclass(frozen=True)
class RelaySetting:
    """What the files of one relay depend on.

    Args:
        name: its name in the DNS and in SMTP, of ASCII labels.
        domains: for which it takes mail, in each form that senders may use: of ASCII labels, and in UTF-8.
        tunnel: the relay's end of the tunnel.
        policy: what it does with mail while home is away: `queue`, `tempfail` or `reject`.
    """

    name: str
    domains: Sequence[str]
    tunnel: AnyRelay
    policy: str = "tempfail"


def relay_files(relay: RelaySetting) -> tuple[RelayFile, ...]:
    """Render every file of a relay, in the order of their paths: those of the server, and those of the bundle."""
    settings = QueueSettings(0, relay.name, tuple(relay.domains), relay.policy, (), 0)
    values = {"name": relay.name, "domains": relay.domains, "settings": settings}
    return rendered([BASE, SYSTEM], relay.tunnel, {**context(relay.tunnel, ssh=False), **values}, _TANG)
