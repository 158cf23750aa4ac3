"""`darkpipe alias`: addresses without a mailbox of their own."""

from __future__ import annotations

from typing import Any

import click

from home.command import HELP, change, in_words, json_option, print_json, print_table
from home.configure import known_accounts
from home.store import Store
from model.account_changes import add_alias, remove_alias
from model.accounts import Accounts
from model.names import mail_address
from stack.addresses import aliases


@click.group(context_settings=HELP)
def alias() -> None:
    """Addresses whose mail goes to one or more others.

    \b
    Examples:
      darkpipe alias list
      darkpipe alias add family@example.com alice@example.com bob@example.com
      darkpipe alias remove family@example.com bob@example.com
    """


@alias.command("list")
@json_option
def list_aliases(as_json: bool) -> None:
    """Show all aliases, and where the addresses go that every domain must have.

    \b
    Example:
      darkpipe alias list --json
    """
    with in_words(as_json=as_json):
        accounts = known_accounts(Store())
        rows = [(found.address, found.targets, "") for found in accounts.aliases]
        rows += [(address, targets, "required") for address, targets in _required(accounts).items()]
        if as_json:
            print_json({"aliases": [_as_json(address, targets, bool(note)) for address, targets, note in rows]})
        else:
            print_table([("ALIAS", "GOES TO", ""), *((name, ", ".join(targets), note) for name, targets, note in rows)])


@alias.command("add")
@click.argument("address", metavar="ALIAS")
@click.argument("targets", metavar="ADDRESS...", nargs=-1, required=True)
@json_option
def add(address: str, targets: tuple[str, ...], as_json: bool) -> None:
    """Have mail to ALIAS go to each ADDRESS: a user, another alias, or somebody elsewhere.

    An alias that is there already gets more targets. Users whom it leads to may send as ALIAS.

    \b
    Examples:
      darkpipe alias add sales@example.com alice@example.com
      darkpipe alias add club@example.com bob@example.com friend@example.net
      darkpipe alias add postmaster@example.com bob@example.com
    """
    with in_words(as_json=as_json):
        accounts = change(lambda before: add_alias(before, address, targets))
        _tell(mail_address(address), accounts, as_json=as_json)


@alias.command("remove")
@click.argument("address", metavar="ALIAS")
@click.argument("targets", metavar="[ADDRESS]...", nargs=-1)
@json_option
def remove(address: str, targets: tuple[str, ...], as_json: bool) -> None:
    """Take ALIAS away, or only some ADDRESS out of it.

    \b
    Examples:
      darkpipe alias remove sales@example.com
      darkpipe alias remove club@example.com friend@example.net
    """
    with in_words(as_json=as_json):
        accounts = change(lambda before: remove_alias(before, address, targets))
        _tell(mail_address(address), accounts, as_json=as_json)


def _tell(address: str, accounts: Accounts, *, as_json: bool) -> None:
    targets = accounts.targets.get(address, ())
    if as_json:
        print_json({"alias": _as_json(address, targets, required=False)})
    elif targets:
        click.echo(f"Mail to {address} goes to {', '.join(targets)} now.")
    else:
        caught = aliases(accounts).get(address) or aliases(accounts).get(f"@{address.partition('@')[2]}")
        click.echo(f"Mail to {address} {f'goes to {caught[0]}' if caught else 'is refused'} now.")


def _required(accounts: Accounts) -> dict[str, tuple[str, ...]]:
    """Give the addresses that every domain must have and that nobody has claimed."""
    return {
        address: targets
        for address, targets in aliases(accounts).items()
        if targets == (accounts.admin,) and address not in accounts.targets and accounts.user(address) is None
        # Neither a catch-all nor a second spelling.
        if not address.startswith("@") and address.isascii()
    }


def _as_json(address: str, targets: tuple[str, ...], required: bool) -> dict[str, Any]:
    return {"address": address, "targets": list(targets), "required": required}
