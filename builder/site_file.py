"""Writing a new `site.yaml`, with the meaning of each key beside it."""

from __future__ import annotations

import os
import tempfile
import textwrap
from pathlib import Path
from typing import Any

import yaml

from builder.errors import BuildError
from model.document import parse_site
from model.site import Disk, Relay, Site, User

_WIDTH = 100
_HEADER = (
    "Made by `./darkpipe init`. `./darkpipe check` tells mistakes at their lines, `./darkpipe schema` prints all keys."
)


def site_text(site: Site) -> str:
    """Write a site as a commented file, which `parse_site` reads back as the same site."""
    values = site.model_dump(mode="json")
    parts = [_comment(_HEADER), "version: 1\n"]
    for name, field in Site.model_fields.items():
        if name in {"version", "relays", "users", "disk"} or not values[name]:
            continue
        parts.append(f"{_comment(field.description or '')}{name}: {_flow(values[name])}\n")
    if site.relays:
        parts.append(_relays(values["relays"]))
    parts.append(f"disk:\n{_disk(values['disk'])}")
    parts.append(_users(values["users"]))
    return "\n".join(parts)


def write_site(path: Path, site: Site) -> None:
    """Write a new file, readable for its owner only: a password's hash may be put into it.

    Raises:
        BuildError: there is something of that name, or the folder cannot be written; then nothing has changed.
    """
    text = site_text(site)
    assert parse_site(text, str(path)) == site
    refuse_existing(path)
    partial = ""
    try:
        descriptor, partial = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        # Unlike a rename, a link never replaces a file that somebody has made in the meantime.
        os.link(partial, path)
    except FileExistsError:
        refuse_existing(path)
        raise
    except OSError as error:
        raise BuildError(f"{path} cannot be written: {error.strerror}", "name a file in a folder of yours") from error
    finally:
        if partial:
            Path(partial).unlink(missing_ok=True)


def refuse_existing(path: Path) -> None:
    """Refuse to overwrite.

    Raises:
        BuildError: there is something of that name.
    """
    if os.path.lexists(path):
        raise BuildError(f"{path} is there already, and is not overwritten", "name another file, or move that one away")


def _relays(relays: list[dict[str, Any]]) -> str:
    """Write address and policy of each, and what is not as it is by itself."""
    lines = [f"{_comment(Site.model_fields['relays'].description or '')}relays:\n"]
    for relay in relays:
        lines.append(f"  - address: {_flow(relay['address'])}\n")
        for name, field in Relay.model_fields.items():
            if name == "offline" or (name != "address" and relay[name] != field.default):
                lines.append(f"{_comment(field.description or '', '    ')}    {name}: {_flow(relay[name])}\n")
    return "".join(lines)


def _disk(disk: dict[str, Any]) -> str:
    return "".join(
        f"{_comment(field.description or '', '  ')}  {name}: {_flow(disk[name])}\n"
        for name, field in Disk.model_fields.items()
        if disk[name] != field.default
    )


def _users(users: list[dict[str, Any]]) -> str:
    lines = [f"{_comment(Site.model_fields['users'].description or '')}users:\n"]
    for number, user in enumerate(users):
        lines.append(f"  - address: {_flow(user['address'])}\n")
        lines += [f"    {key}: {_flow(user[key])}\n" for key in ("aliases", "catch_all", "quota") if user[key]]
        if number == 0:
            lines.append(_comment(User.model_fields["password"].description or "", "    "))
        lines.append(f"    password: {_flow(user['password'])}\n")
    return "".join(lines)


def _comment(text: str, indent: str = "") -> str:
    return "".join(f"{indent}# {line}\n" for line in textwrap.wrap(text, _WIDTH - len(f"{indent}# ")))


def _flow(value: Any) -> str:
    text: str = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=4096)
    return text.removesuffix("\n").removesuffix("\n...")
