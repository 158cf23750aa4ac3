"""The files of a relay: what `relay-cloudinit/files` and `relay/system` become for one site."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import jinja2

from model.tunnel import MTU, RELAY_INTERFACE, RelayEnd

_SOURCE = Path(__file__).resolve().parent.parent
BASE = _SOURCE / "relay-cloudinit/files"
SYSTEM = _SOURCE / "relay/system"
"""What a server has before it is a relay, and what makes it one. Laid out as `/`; what ends in `.j2` is a template."""


@dataclass(frozen=True)
class RelayFile:
    """One file on the relay.

    Args:
        text: its content; a secret when nobody else may read it.
        mode: its permissions; its owner is root.
    """

    path: PurePosixPath
    text: str
    mode: int


@dataclass(frozen=True)
class RelaySetting:
    """What the files of one relay depend on.

    Args:
        name: its name in the DNS and in SMTP, of ASCII labels.
        domains: for which it takes mail, in each form that senders may use: of ASCII labels, and in UTF-8.
        tunnel: the relay's end of the tunnel.
        ssh: whether somebody may log in over SSH.
    """

    name: str
    domains: Sequence[str]
    tunnel: RelayEnd
    ssh: bool = False


def relay_files(relay: RelaySetting, folders: Sequence[Path] = (BASE, SYSTEM)) -> tuple[RelayFile, ...]:
    """Render every file of a relay, in the order of their paths."""
    # What comes in was checked by the model; these are no web pages.
    environment = jinja2.Environment(  # noqa: S701
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    context = {
        "name": relay.name,
        "domains": relay.domains,
        "tunnel": relay.tunnel,
        "ssh": relay.ssh,
        "interface": RELAY_INTERFACE,
        "mtu": MTU,
    }
    rendered = []
    sources = {path.relative_to(folder): path for folder in folders for path in folder.rglob("*") if path.is_file()}
    for relative, source in sorted(sources.items()):
        path, text = PurePosixPath("/", relative), source.read_text(encoding="utf-8")
        if path.suffix == ".j2":
            path, text = path.with_suffix(""), environment.from_string(text).render(context)
        rendered.append(RelayFile(path, text, _mode(path, text)))
    return tuple(rendered)


def _mode(path: PurePosixPath, text: str) -> int:
    if path.parent == PurePosixPath("/etc/wireguard"):
        return 0o600
    return 0o755 if text.startswith("#!") else 0o644
