"""The device's `darkpipe`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click

from firstboot.console import announce
from firstboot.disk import DiskError
from firstboot.seed import SeedError
from home.configure import ConsoleError, Store, configure, try_out
from model.document import SiteError
from model.report import annotate
from stack.apply import CheckError
from stack.certificate import CertificateError
from stack.component import ComponentError
from stack.credentials import CredentialsError
from stack.render import RenderError
from stack.stack import COMPONENTS, Stack

_EXPECTED = (
    CertificateError,
    CheckError,
    ComponentError,
    ConsoleError,
    CredentialsError,
    DiskError,
    OSError,
    RenderError,
    SeedError,
    SiteError,
)
"""Errors that a person can act on; any other is a bug, and its traceback belongs into the journal."""


def _explained(error: Exception) -> str:
    return annotate(error) if isinstance(error, SiteError) else str(error)


@click.group()
def main() -> None:
    """DarkPipe on this device."""


@main.command("apply")
@click.option("--restart/--no-restart", default=True, help="Restart running services whose configuration changed.")
@click.option("--dry-run", is_flag=True, help="Show what would change, and change nothing.")
def apply_command(restart: bool, dry_run: bool) -> None:
    """Turn the site into the configuration of the services.

    The new configuration comes into force as a whole, and only if every service approves of it.
    """
    if dry_run:
        _show_changes()
        return
    try:
        applied = configure(Stack.load(Path(COMPONENTS)), Store(), announce)
    except _EXPECTED as error:
        # The whole text is for the person in front of the device; of a site, the log gets no line that may hold a hash.
        announce(f"DarkPipe cannot apply its configuration.\n\n{_explained(error)}")
        click.echo(str(error), err=True)
        sys.exit(1)
    if applied is None:
        click.echo("There is no site yet: nothing to apply.")
        return
    if not applied.changed:
        click.echo(f"Configuration {applied.generation} was in force already.")
        return
    click.echo(f"Configuration {applied.generation} is in force; changed: {', '.join(applied.changed)}.")
    if restart:
        # Only what runs: a service that somebody has stopped stays stopped.
        subprocess.run(["systemctl", "try-restart", *(f"{name}.service" for name in applied.changed)], check=True)


def _show_changes() -> None:
    try:
        preview = try_out(Stack.load(Path(COMPONENTS)), Store())
    except _EXPECTED as error:
        click.echo(str(error), err=True)
        sys.exit(1)
    if preview is None:
        click.echo("There is no site yet: nothing to apply.")
        return
    for difference in preview.differences:
        click.echo(difference, nl=False)
    if not preview.differences:
        click.echo("This configuration is in force already: nothing would change.")
        return
    restarted = ", ".join(preview.changed) or "none"
    click.echo(f"Nothing was changed. Services that an apply would restart, if they run: {restarted}.")
