"""What is built. The model describes all of DarkPipe; what does not work yet is refused here, never ignored."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from model.problems import Finding, Kind, Path, quoted
from model.site import MailServer, UnlockPolicy


@dataclass(frozen=True)
class Support:
    """How much of a setting works.

    `works` are the choices that do; none means that the list has to stay empty. `meanwhile` says what to do until more
    do.
    """

    path: Path
    choices: type[StrEnum] | None
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
    Support(
        ("relays",),
        None,
        frozenset(),
        "leave `relays` out; until then the device takes mail from your own network, and what goes outside waits",
    ),
    Support(
        ("disk", "unlock"),
        UnlockPolicy,
        frozenset({UnlockPolicy.NONE}),
        "write `unlock: none` if the mail may lie on this disk without encryption; otherwise wait for a later version",
    ),
)


def not_built(data: Mapping[str, Any]) -> Iterator[Finding]:
    """Find the settings that ask for something which is not built yet.

    Args:
        data: the keys of a `site.yaml`; what is malformed is left to other checks.
    """
    for support in SUPPORTED:
        value = _value(data, support.path)
        if support.choices is None and isinstance(value, list | tuple) and value:
            name = quoted(str(support.path[-1]))
            yield _finding(support, f"{name}, which are not built yet", f"no {name}")
        elif isinstance(value, str) and value in set(support.choices or ()) - support.works:
            works = " or ".join(quoted(name) for name in sorted(support.works))
            yield _finding(support, f"{quoted(value)}, which is not built yet", f"{works}, all that works today")


def working_choices(path: Path) -> frozenset[StrEnum] | None:
    """Give the choices of a setting that work today, or None where all do."""
    return next((support.works for support in SUPPORTED if support.path == path), None)


def _finding(support: Support, found: str, expected: str) -> Finding:
    return Finding(support.path, Kind.NOT_BUILT, found, expected, support.meanwhile)


def _value(data: Any, path: Path) -> Any:
    for key in path:
        data = data.get(key) if isinstance(data, Mapping) else None
    return data
