"""The files of a relay: folders that are laid out as `/`, in which what ends in `.j2` is a template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import jinja2

_TEMPLATE = ".j2"

_SECRET = (PurePosixPath("/etc/wireguard"), PurePosixPath("/etc/openvpn/server"))
"""Folders whose files hold keys."""


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


def render_files(
    folders: Sequence[Path], context: Mapping[str, Any], without: tuple[str, ...] = ()
) -> tuple[RelayFile, ...]:
    """Render every file of some folders, in the order of their paths; a later folder's wins.

    Args:
        without: beginnings of the paths of files that are left out.

    Raises:
        jinja2.TemplateError: the context lacks something.
    """
    # What comes in was checked by the model; these are no web pages.
    environment = jinja2.Environment(  # noqa: S701
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    sources = {path.relative_to(folder): path for folder in folders for path in folder.rglob("*") if path.is_file()}
    rendered = []
    for relative, source in sorted(sources.items()):
        path, text = PurePosixPath("/", relative), source.read_text(encoding="utf-8")
        if str(path).startswith(without):
            continue
        if path.suffix == _TEMPLATE:
            path, text = path.with_suffix(""), environment.from_string(text).render(context)
        rendered.append(RelayFile(path, text, _mode(path, text)))
    return tuple(rendered)


def _mode(path: PurePosixPath, text: str) -> int:
    if path.parent in _SECRET:
        return 0o600
    return 0o755 if text.startswith("#!") else 0o644
