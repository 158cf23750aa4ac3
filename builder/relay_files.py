"""The files of a relay: what `relay-cloudinit/files` and `relay/system` become for one site."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from model.control import QueueSettings
from model.mtls import AnyRelay, MtlsRelay
from model.openvpn import HOME_NAME
from model.tunnel import MTU, RELAY_INTERFACE
from relay.render import RelayFile, render_files

_SOURCE = Path(__file__).resolve().parent.parent
BASE = _SOURCE / "relay-cloudinit/files"
SYSTEM = _SOURCE / "relay/system"
"""What a server has before it is a relay, and what makes it one. Laid out as `/`; what ends in `.j2` is a template."""

MTLS = _SOURCE / "relay-cloudinit/mtls"
"""What a server has besides whose tunnel is of OpenVPN."""

_WIREGUARD = ("/etc/wireguard/", "/etc/systemd/system/darkpipe-peer.", "/usr/local/sbin/darkpipe-peer")
"""What it does not have then."""

_TANG = ("/etc/systemd/system/darkpipe-tang",)
"""What it has only when home has its disk unlocked by it."""

_COMMENT = re.compile(r"^[ \t]*#(?!!).*\n", re.MULTILINE)

RECEIVER = RelayFile(
    PurePosixPath("/usr/local/sbin/darkpipe-receiver"),
    (_SOURCE / "relay/receiver.py").read_text(encoding="utf-8"),
    0o755,
)


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


def server_files(tunnel: AnyRelay, *, ssh: bool = False) -> tuple[RelayFile, ...]:
    """Give the files that make a server ready for its relay's software, in the order of their paths.

    Args:
        ssh: whether somebody may log in over SSH.
    """
    files = [*_rendered([BASE], tunnel, {**_context(tunnel, ssh=ssh), "bare": True}), RECEIVER]
    if isinstance(tunnel, MtlsRelay):
        # Certificates are long, and a provider's form has no room for reasons as well; the bundle brings them.
        files = [replace(file, text=_COMMENT.sub("", file.text)) for file in files]
    if ssh:  # for the bundle's own rules of the firewall
        files.append(RelayFile(PurePosixPath("/etc/darkpipe/ssh"), "yes\n", 0o644))
    return tuple(sorted(files, key=lambda file: file.path))


def relay_files(relay: RelaySetting) -> tuple[RelayFile, ...]:
    """Render every file of a relay, in the order of their paths: those of the server, and those of the bundle."""
    settings = QueueSettings(0, relay.name, tuple(relay.domains), relay.policy, (), 0)
    context = {"name": relay.name, "domains": relay.domains, "settings": settings}
    return _rendered([BASE, SYSTEM], relay.tunnel, {**_context(relay.tunnel, ssh=False), **context}, _TANG)


def _rendered(
    folders: Sequence[Path], tunnel: AnyRelay, context: Mapping[str, object], without: tuple[str, ...] = ()
) -> tuple[RelayFile, ...]:
    if not isinstance(tunnel, MtlsRelay):
        return render_files(folders, context, without)
    return render_files([*folders, MTLS], context, (*_WIREGUARD, *without))


def _context(tunnel: AnyRelay, *, ssh: bool) -> dict[str, object]:
    return {
        "tunnel": tunnel,
        "mtls": isinstance(tunnel, MtlsRelay),
        "bare": False,
        "home_name": HOME_NAME,
        "ssh": ssh,
        "interface": RELAY_INTERFACE,
        "mtu": MTU,
        "queue_user": None,
        "unlock": None,
    }
