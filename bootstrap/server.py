"""The files that a server has before it is a relay: what `relay-cloudinit` becomes for one tunnel."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from model.mtls import AnyRelay, MtlsRelay
from model.openvpn import HOME_NAME
from model.tunnel import MTU, RELAY_INTERFACE
from relay.render import RelayFile, render_files

_SOURCE = Path(__file__).resolve().parent.parent
BASE = _SOURCE / "relay-cloudinit/files"
"""Laid out as `/`; what ends in `.j2` is a template."""

MTLS = _SOURCE / "relay-cloudinit/mtls"
"""What a server has besides whose tunnel is of OpenVPN."""

_WIREGUARD = ("/etc/wireguard/", "/etc/systemd/system/darkpipe-peer.", "/usr/local/sbin/darkpipe-peer")
"""What it does not have then."""

_COMMENT = re.compile(r"^[ \t]*#(?!!).*\n", re.MULTILINE)

RECEIVER = RelayFile(
    PurePosixPath("/usr/local/sbin/darkpipe-receiver"),
    (_SOURCE / "relay/receiver.py").read_text(encoding="utf-8"),
    0o755,
)


def server_files(tunnel: AnyRelay, *, ssh: bool = False) -> tuple[RelayFile, ...]:
    """Give the files that make a server ready for its relay's software, in the order of their paths.

    Args:
        ssh: whether somebody may log in over SSH.
    """
    files = [*rendered([BASE], tunnel, {**context(tunnel, ssh=ssh), "bare": True}), RECEIVER]
    if isinstance(tunnel, MtlsRelay):
        # Certificates are long, and a provider's form has no room for reasons as well; the bundle brings them.
        files = [replace(file, text=_COMMENT.sub("", file.text)) for file in files]
    if ssh:  # for the bundle's own rules of the firewall
        files.append(RelayFile(PurePosixPath("/etc/darkpipe/ssh"), "yes\n", 0o644))
    return tuple(sorted(files, key=lambda file: file.path))


def rendered(
    folders: Sequence[Path], tunnel: AnyRelay, values: Mapping[str, object], without: tuple[str, ...] = ()
) -> tuple[RelayFile, ...]:
    """Render the files in some folders for a relay with this end of the tunnel, in the order of their paths.

    Args:
        without: beginnings of the paths of files that it does not have.
    """
    if not isinstance(tunnel, MtlsRelay):
        return render_files(folders, values, without)
    return render_files([*folders, MTLS], values, (*_WIREGUARD, *without))


def context(tunnel: AnyRelay, *, ssh: bool) -> dict[str, object]:
    """Give what every template may speak of."""
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
