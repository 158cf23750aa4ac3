"""What is built. The model describes all of DarkPipe; what does not work yet is refused here, never ignored."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from model.problems import Finding, Kind, Path, quoted
from model.site import MailServer


@dataclass(frozen=True)
class Support:
    """How much of a setting works.

    `works` are the choices that do. `meanwhile` says what to do until more do.
    """

    path: Path
    choices: type[StrEnum]
    works: frozenset[StrEnum]
    meanwhile: str


# A feature that gets built leaves this table, or adds its value to a row.
SUPPORTED = (
    Support(
        ("mail_server",),
        MailServer,
        frozenset({MailServer.POSTFIX_DOVECOT}),
        "leave the key out, or write `mail_server: postfix-dovecot`",
    ),
)


def not_built(data: Mapping[str, Any]) -> Iterator[Finding]:
    """Find the settings that ask for something which is not built yet.

    Args:
        data: the keys of a `site.yaml`; what is malformed is left to other checks.
    """
    for support in SUPPORTED:
        yield from _choice(support, support.path, _value(data, support.path))
    relays = data.get("relays")
    if not isinstance(relays, list | tuple):
        return
    if len(relays) > 1:
        found = "`relays` with more than one relay, which is not built yet"
        yield Finding(("relays",), Kind.NOT_BUILT, found, "one relay", "leave the others out")


def _choice(support: Support, path: Path, value: Any) -> Iterator[Finding]:
    if isinstance(value, str) and value in set(support.choices) - support.works:
        works = " or ".join(quoted(name) for name in sorted(support.works))
        found = f"{quoted(str(value))}, which is not built yet"
        yield Finding(path, Kind.NOT_BUILT, found, f"{works}, all that works today", support.meanwhile)


def working_choices(path: Path) -> frozenset[StrEnum] | None:
    """Give the choices of a setting that work today, or None where all do."""
    return next((support.works for support in SUPPORTED if support.path == path), None)


def _value(data: Any, path: Path) -> Any:
    for key in path:
        data = data.get(key) if isinstance(data, Mapping) else None
    return data
