"""The device's `darkpipe`."""

from __future__ import annotations

import sys

import click

from firstboot.console import announce
from firstboot.why import forget_reason, keep_reason, reason
from home.alias_commands import alias
from home.bucket_commands import recover_bucket, s3_key
from home.command import EXPECTED, HELP, complain_of_unshown, explained, for_root, in_words
from home.configure import NOTHING, configure, try_out
from home.disk_commands import disk, recovery
from home.dkim_command import dkim
from home.dns_commands import dns_group
from home.domain_commands import domain
from home.page_commands import page
from home.pair_commands import pair, relay
from home.preflight_command import preflight_command
from home.quarantine_commands import quarantine
from home.relay_settings_command import relay_settings
from home.restarts import forget
from home.services import restart
from home.status_cli import probe_command, status
from home.store import Store
from home.user_commands import user
from stack.apply import Applied
from stack.stack import COMPONENTS, Stack


@click.group(context_settings=HELP)
def main() -> None:
    """DarkPipe on this device.

    \b
    Examples:
      darkpipe user add carol@example.com
      darkpipe user password alice@example.com
      darkpipe alias add family@example.com alice@example.com bob@example.com
    """


@main.command("apply")
@click.option("--restart/--no-restart", "restarts", default=True, help="Restart services whose configuration changed.")
@click.option("--dry-run", is_flag=True, help="Show what would change, and change nothing.")
def apply_command(restarts: bool, dry_run: bool) -> None:
    """Turn accounts and site into the configuration of the services.

    The new configuration comes into force as a whole, and only if every service approves of it.
    """
    if refused := for_root():
        click.echo(refused, err=True)
        sys.exit(1)
    if dry_run:
        _show_changes()
        return
    try:
        store = Store()
        changed = configure(Stack.load(COMPONENTS), store, announce)
        if changed is None:
            keep_reason(NOTHING)
            click.echo("There is no site yet: nothing to apply.")
            return
        forget_reason()
        # First of all: what is told may go into a file on a full disk.
        if restarts:
            restart(changed.applied.changed)
        forget(store.restarts)
        click.echo(_told(changed.applied))
        complain_of_unshown(changed)
    except EXPECTED as error:
        # The whole text is for the person in front of the device; of a site, the log gets no line that may hold a hash.
        announce(f"DarkPipe cannot apply its configuration.\n\n{explained(error)}")
        keep_reason(reason(error))
        click.echo(str(error), err=True)
        sys.exit(1)


def _told(applied: Applied) -> str:
    if not applied.switched and not applied.changed:
        return f"Configuration {applied.generation} was in force already."
    if not applied.switched:
        names = ", ".join(applied.changed)
        return f"Configuration {applied.generation} was in force already; not yet known to: {names}."
    if not applied.changed:
        return f"Configuration {applied.generation} is in force; no service has to be restarted."
    return f"Configuration {applied.generation} is in force; changed: {', '.join(applied.changed)}."


def _show_changes() -> None:
    with in_words(as_json=False):
        preview = try_out(Stack.load(COMPONENTS), Store())
    if preview is None:
        click.echo("There is no site yet: nothing to apply.")
        return
    for difference in preview.differences:
        click.echo(difference, nl=False)
    if not preview.differences and not preview.changed:
        click.echo("This configuration is in force already: nothing would change.")
        return
    restarted = ", ".join(preview.changed) or "none"
    click.echo(f"Nothing was changed. Services that an apply would restart, if they run: {restarted}.")


for group in (domain, user, alias, dkim, dns_group, quarantine, relay, disk, recovery, page):
    main.add_command(group)
for command in (recover_bucket, relay_settings, s3_key):
    relay.add_command(command)
main.add_command(pair)
main.add_command(preflight_command)
main.add_command(status)
main.add_command(probe_command)
