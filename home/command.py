"""What the commands of the device have in common: errors in words, JSON on demand, services that see a change."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import click

from firstboot.console import announce
from firstboot.partitions import DiskError
from firstboot.seed import SeedError
from home.configure import InForce, Show, change_accounts, passwords_text
from home.drain_letter import LetterError
from home.quarantine import QuarantineError
from home.quarantine_release import ReleaseError
from home.queue_keys import QueueKeyError
from home.restarts import forget
from home.s3_settings import S3KeyError
from home.services import ServiceError, end_sessions, restart
from home.store import Store, StoreError
from model.accounts import Accounts
from model.document import SiteError
from model.problems import Refusal
from model.report import annotate
from stack.apply import CheckError
from stack.certificate import CertificateError
from stack.component import ComponentError
from stack.dkim import DkimError
from stack.render import RenderError
from stack.stack import COMPONENTS, Stack


class ConsoleError(Exception):
    """There is no console to show a password on."""


HELP = {"help_option_names": ["-h", "--help"], "max_content_width": 100}

EXPECTED = (
    CertificateError,
    CheckError,
    ComponentError,
    ConsoleError,
    DiskError,
    DkimError,
    LetterError,
    OSError,
    QuarantineError,
    QueueKeyError,
    ReleaseError,
    RenderError,
    S3KeyError,
    SeedError,
    ServiceError,
    SiteError,
    StoreError,
)
"""Errors that a person can act on; any other is a bug, and its traceback belongs into the journal."""

_user = os.geteuid

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")


def explained(error: Exception) -> str:
    """Tell an error in full, for the person in front of the device."""
    return annotate(error) if isinstance(error, SiteError) else str(error)


def print_json(value: Mapping[str, Any]) -> None:
    """Print one JSON object."""
    click.echo(json.dumps(value, ensure_ascii=False, indent=2))


def print_table(rows: Iterable[Sequence[str]]) -> None:
    """Print rows in columns that are as wide as need be."""
    cells = [tuple(row) for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        click.echo("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())


def for_root() -> str:
    """Tell that a command is for root, when somebody else has given it; empty for root."""
    words = click.get_current_context().command_path.split()[1:]
    return f"this is for root: sudo darkpipe {' '.join(words)}" if _user() != 0 else ""


@contextmanager
def in_words(*, as_json: bool) -> Iterator[None]:
    """Tell a refusal, or an error that a person can act on, and end with status 1."""
    try:
        yield
    except Refusal as refusal:
        told = {"kind": refusal.kind, "found": refusal.found, "expected": refusal.expected, "do": refusal.remedy}
        text = f"found:    {refusal.found}\nexpected: {refusal.expected}\ndo:       {refusal.remedy}"
        _fail(text, {"refused": told} if as_json else None)
    except EXPECTED as error:
        text = (isinstance(error, PermissionError) and for_root()) or str(error)
        _fail(text, {"error": text} if as_json else None)


def change(wish: Callable[[Accounts], Accounts], *, end_sessions_of: str = "", on_terminal: bool = False) -> Accounts:
    """Change the accounts, and have the services see it.

    Args:
        end_sessions_of: address of somebody who may not go on with what was allowed before.
        on_terminal: whether passwords that are made are shown to whoever has typed the command, rather than on the
            device's own console.

    Returns:
        The new accounts.

    Raises:
        Refusal: the wish cannot be granted; nothing was changed.
    """
    stack, store = Stack.load(COMPONENTS), Store()
    show: Show = _show_here if on_terminal else lambda passwords: announce(passwords_text(passwords))
    with _undisturbed():
        changed = change_accounts(stack, store, wish, show)
        try:
            restart(changed.applied.changed)
            forget(store.restarts)
        finally:  # whatever does not come up
            if end_sessions_of:
                end_sessions(stack, end_sessions_of)
    complain_of_unshown(changed)
    return changed.accounts


def complain_of_unshown(changed: InForce) -> None:
    """Tell of passwords that nobody has seen.

    Raises:
        ConsoleError: there are some.
    """
    if changed.unshown:
        raise ConsoleError(
            f"a password was made for {', '.join(changed.unshown)} and could not be shown to anybody. All else is in "
            "force. The next `darkpipe apply` makes another one; `darkpipe user password` sets one of your own."
        )


def _show_here(passwords: Mapping[str, str]) -> bool:
    try:
        click.echo(passwords_text(passwords))
        sys.stdout.flush()
    except OSError:
        return False
    return True


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Let no Ctrl-C and no closed terminal come between a new configuration and the services that have to see it."""
    numbers = (signal.SIGINT, signal.SIGHUP)
    before = [signal.signal(number, signal.SIG_IGN) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def _fail(text: str, value: Mapping[str, Any] | None) -> NoReturn:
    if value is not None:
        print_json(value)
    click.echo(text, err=True)
    sys.exit(1)
