"""`darkpipe domain`: whose mail arrives here."""

from __future__ import annotations

from typing import Any

import click

from home.command import HELP, change, in_words, json_option, print_json, print_table
from home.configure import known_accounts
from home.store import Store
from model.account_changes import add_domain, remove_domain, set_catch_all
from model.accounts import Accounts, MailDomain
from model.names import domain_name

_NONE = "none"


@click.group(context_settings=HELP)
def domain() -> None:
    """The domains whose mail arrives here.

    \b
    Examples:
      darkpipe domain list
      darkpipe domain add example.org
      darkpipe domain catch-all example.org alice@example.com
    """


@domain.command("list")
@json_option
def list_domains(as_json: bool) -> None:
    """Show all domains; the first is the primary, after which the machine is called.

    \b
    Example:
      darkpipe domain list --json
    """
    with in_words(as_json=as_json):
        accounts = known_accounts(Store())
        if as_json:
            print_json({"domains": [_as_json(found, accounts) for found in accounts.domains]})
            return
        rows = [("DOMAIN", "CATCH-ALL", "")]
        for found in accounts.domains:
            role = "primary" if found.name == accounts.primary_domain else ""
            rows.append((found.name, found.catch_all or "-", role))
        print_table(rows)


@domain.command("add")
@click.argument("name", metavar="DOMAIN")
@json_option
def add(name: str, as_json: bool) -> None:
    """Receive mail for a DOMAIN as well.

    Its postmaster@ and abuse@ go to the administrator until somebody else gets them as an alias.

    \b
    Example:
      darkpipe domain add example.org
    """
    with in_words(as_json=as_json):
        accounts = change(lambda before: add_domain(before, name))
        _tell(domain_name(name), accounts, f"Mail for {domain_name(name)} is taken now.", as_json=as_json)


@domain.command("remove")
@click.argument("name", metavar="DOMAIN")
@json_option
def remove(name: str, as_json: bool) -> None:
    """Receive no mail for a DOMAIN any more, once nobody has an address there.

    \b
    Example:
      darkpipe domain remove example.org
    """
    with in_words(as_json=as_json):
        change(lambda before: remove_domain(before, name))
        if as_json:
            print_json({"removed": domain_name(name)})
        else:
            click.echo(f"Mail for {domain_name(name)} is refused now. Mail that has arrived is kept.")


@domain.command("catch-all")
@click.argument("name", metavar="DOMAIN")
@click.argument("mailbox", metavar="ADDRESS|none")
@json_option
def catch_all(name: str, mailbox: str, as_json: bool) -> None:
    """Have the user ADDRESS get all mail to addresses of a DOMAIN that nobody has.

    This user may also send as any such address. With `none`, mail to them is refused.

    \b
    Examples:
      darkpipe domain catch-all example.org alice@example.com
      darkpipe domain catch-all example.org none
    """
    wanted = None if mailbox == _NONE else mailbox
    with in_words(as_json=as_json):
        accounts = change(lambda before: set_catch_all(before, name, wanted))
        found = accounts.domain(domain_name(name))
        catch = found.catch_all if found else None
        goes = f"goes to {catch}" if catch else "is refused"
        told = f"Mail to addresses of {domain_name(name)} that nobody has {goes} now."
        _tell(domain_name(name), accounts, told, as_json=as_json)


def _tell(name: str, accounts: Accounts, text: str, *, as_json: bool) -> None:
    found = accounts.domain(name)
    if as_json and found:
        print_json({"domain": _as_json(found, accounts)})
    else:
        click.echo(text)


def _as_json(found: MailDomain, accounts: Accounts) -> dict[str, Any]:
    primary = found.name == accounts.primary_domain
    return {"name": found.name, "primary": primary, "catch_all": found.catch_all}
