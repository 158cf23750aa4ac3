"""Services that have still to see the configuration in force.

They are restarted once it is switched to. Between the two the power stays, and all else may happen: no room on the disk
for what comes after the switch, a kill, a service that does not come up. What has to be restarted is therefore noted
before the switch and until it is done: another apply finds nothing to change then, and would restart nobody.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from stack.durable import write_atomically
from stack.stack import Stack


def note(path: Path, names: Sequence[str]) -> None:
    """Add services to those that are to be restarted; on return that is on the disk."""
    known = read_noted(path)
    if wanted := set(names) - known:
        write_atomically(path, "".join(f"{name}\n" for name in sorted(known | wanted)).encode(), 0o600)


def noted(path: Path, stack: Stack) -> tuple[str, ...]:
    """Name the services that are to be restarted, in the order of the Stack."""
    known = read_noted(path)
    return tuple(service.name for service in stack.services if service.name in known)


def forget(path: Path) -> None:
    """Note that all are restarted, or have started with the configuration in force."""
    with suppress(OSError):  # one restart more does no harm
        path.unlink()


def read_noted(path: Path) -> set[str]:
    """Name the services that are to be restarted, of whatever Stack."""
    try:
        return set(path.read_text(encoding="utf-8", errors="replace").split())
    except FileNotFoundError:
        return set()
