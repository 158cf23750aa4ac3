"""User-data: the text that makes a relay of a fresh VPS, for the form of its provider (cloud-init's cloud-config)."""

from __future__ import annotations

import re
from datetime import date
from pathlib import Path

import jinja2
import yaml
from pydantic import BaseModel, ConfigDict

from builder.bootstrap import Bootstrap
from builder.bundle import PACKAGES
from builder.errors import BuildError
from builder.relay_files import server_files
from model.accounts import first_accounts
from model.site import Site, Transport
from model.ssh_key import PublicKey

LIMIT = 16 * 1024
"""Octets; the least that a provider takes (cloud-init's own limit for EC2 and OpenStack's metadata)."""

_PACKAGES = {*PACKAGES, "unattended-upgrades"}

_FOLDER = Path(__file__).resolve().parent.parent / "relay-cloudinit"

_PLAIN = re.compile(r"[A-Za-z0-9@._+-]+(?: [A-Za-z0-9@._+-]+)*")
"""A comment that means nothing to YAML."""


class Claim(BaseModel):
    """Something that somebody says of a provider.

    Args:
        seen: when the source was looked at.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: str
    source: str
    seen: date


class Provider(BaseModel):
    """A provider of VPS."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    claims: tuple[Claim, ...]


def providers() -> dict[str, Provider]:
    """Read what is known of providers."""
    table = yaml.safe_load((_FOLDER / "providers.yaml").read_text(encoding="utf-8"))
    return {name: Provider.model_validate(row) for name, row in table.items()}


def user_data(site: Site, bootstrap: Bootstrap, ssh_key: str = "") -> str:
    """Write the user-data for the relay of a site.

    Args:
        ssh_key: a public key as ssh-keygen(1) writes it; empty turns SSH off. Its comment is left out where YAML could
            take it for something else.

    Raises:
        BuildError: it is no public key, or there is too much to say for a provider's form.
    """
    ssh_key = public_key(ssh_key) if ssh_key else ""
    accounts = first_accounts(site)
    files = server_files(bootstrap.relay, ssh=bool(ssh_key))
    packages = sorted(_PACKAGES | {"openvpn"} if bootstrap.transport is Transport.MTLS else _PACKAGES)
    text = _render("user-data.yaml.j2", name=accounts.mx_host, ssh_key=ssh_key, packages=packages, files=files)
    if (size := len(text.encode())) > LIMIT:
        raise BuildError(
            f"the user-data has {size:,} octets, and a provider's form takes {LIMIT:,}",
            "give a shorter SSH key, for instance one of type ssh-ed25519",
        )
    return text


def public_key(text: str) -> str:
    """Give a public key as it may stand in user-data.

    Raises:
        BuildError: it is no public key.
    """
    key = PublicKey.parse(text.strip())
    if key is None:
        raise BuildError(
            "the SSH key is none: found something else than one whole line like `ssh-ed25519 AAAA… name`",
            "give the public file, with the ending .pub; sshd takes no keys of type ssh-dss any more",
        )
    line = f"{key.kind} {key.key}"
    return f"{line} {key.comment}" if _PLAIN.fullmatch(key.comment) else line


def next_steps(site: Site, text: str, provider: Provider, ssh_key: str = "") -> str:
    """Tell the owner what to do with the user-data, in lines for a terminal."""
    accounts = first_accounts(site)
    return _render(
        "next-steps.txt.j2",
        host=accounts.mx_host,
        mail=accounts.mail_host,
        address=site.relays[0].address,
        size=len(text.encode()),
        limit=LIMIT,
        provider=provider,
        ssh_key=ssh_key,
        mtls=site.relays[0].transport is Transport.MTLS,
    )


def _render(template: str, **context: object) -> str:
    environment = jinja2.Environment(  # noqa: S701 (no web page; what comes in was checked by the model)
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    return environment.from_string((_FOLDER / template).read_text(encoding="utf-8")).render(context)
