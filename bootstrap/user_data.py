"""User-data: the text that makes a relay of a fresh VPS, for the form of its provider (cloud-init's cloud-config)."""

from __future__ import annotations

import re
from datetime import date
from pathlib import Path

import jinja2
import yaml
from pydantic import BaseModel, ConfigDict

from bootstrap.ends import Bootstrap
from bootstrap.server import server_files
from model.site import Transport
from model.ssh_key import PublicKey

LIMIT = 16 * 1024
"""Octets; the least that a provider takes (cloud-init's own limit for EC2 and OpenStack's metadata)."""

PACKAGES = (
    *("haproxy", "nftables", "openssl", "postfix", "wireguard-tools"),
    *("python3", "python3-dnspython", "python3-h11", "python3-jinja2", "python3-spf"),
)
"""Debian packages that a relay needs, in Debian 12 as in 13."""

_AT_FIRST = {*PACKAGES, "unattended-upgrades"}

FOLDER = Path(__file__).resolve().parent.parent / "relay-cloudinit"
"""The templates, and what is known of providers."""

_PLAIN = re.compile(r"[A-Za-z0-9@._+-]+(?: [A-Za-z0-9@._+-]+)*")
"""A comment that means nothing to YAML."""


class UserDataError(Exception):
    """There can be no such user-data.

    Args:
        message: what was found and what was expected.
        hint: what to do about it.
    """

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


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
    table = yaml.safe_load((FOLDER / "providers.yaml").read_text(encoding="utf-8"))
    return {name: Provider.model_validate(row) for name, row in table.items()}


def user_data(name: str, bootstrap: Bootstrap, ssh_key: str = "") -> str:
    """Write the user-data for a relay.

    Args:
        name: the relay's, in the DNS and in SMTP.
        ssh_key: a public key as ssh-keygen(1) writes it; empty turns SSH off. Its comment is left out where YAML could
            take it for something else.

    Raises:
        UserDataError: it is no public key, or there is too much to say for a provider's form.
    """
    ssh_key = public_key(ssh_key) if ssh_key else ""
    files = server_files(bootstrap.relay, ssh=bool(ssh_key))
    packages = sorted(_AT_FIRST | {"openvpn"} if bootstrap.transport is Transport.MTLS else _AT_FIRST)
    text = render("user-data.yaml.j2", name=name, ssh_key=ssh_key, packages=packages, files=files)
    if (size := len(text.encode())) > LIMIT:
        raise UserDataError(
            f"the user-data has {size:,} octets, and a provider's form takes {LIMIT:,}",
            "give a shorter SSH key, for instance one of type ssh-ed25519",
        )
    return text


def public_key(text: str) -> str:
    """Give a public key as it may stand in user-data.

    Raises:
        UserDataError: it is no public key.
    """
    key = PublicKey.parse(text.strip())
    if key is None:
        raise UserDataError(
            "the SSH key is none: found something else than one whole line like `ssh-ed25519 AAAA… name`",
            "give the public file, with the ending .pub; sshd takes no keys of type ssh-dss any more",
        )
    line = f"{key.kind} {key.key}"
    return f"{line} {key.comment}" if _PLAIN.fullmatch(key.comment) else line


def render(template: str, **context: object) -> str:
    """Render one of the templates in `relay-cloudinit`."""
    environment = jinja2.Environment(  # noqa: S701 (no web page; what comes in was checked by the model)
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    return environment.from_string((FOLDER / template).read_text(encoding="utf-8")).render(context)
