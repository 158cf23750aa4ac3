"""`darkpipe user`: mailboxes, and who may log in to them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from home.command import HELP, change, in_words, json_option, print_json, print_table
from home.configure import known_accounts
from home.store import Store
from home.user_work import with_user
from model.account_changes import find_user, remove_user, set_admin, set_password, set_quota
from model.account_rules import owners
from model.accounts import Account, Accounts
from model.names import mail_address
from model.quota import quota_bytes, quota_text
from stack.passwords import check_password, hash_password

_NONE = "none"

_generate_option = click.option("--generate", is_flag=True, help="Make a password and show it, once, on this terminal.")
_stdin_option = click.option(
    "--password-stdin", is_flag=True, help="Read the password from standard input, one line; for programs."
)


class _Secret:
    """A way to a password: asked for, read or made. None of them leads over the command line, which everybody sees."""

    def __init__(self, *, generate: bool, from_stdin: bool, as_json: bool) -> None:
        if generate and from_stdin:
            raise click.UsageError("--generate and --password-stdin cannot be used together.")
        if generate and (as_json or not sys.stdout.isatty()):
            raise click.UsageError(
                "--generate shows the password to a person: it needs a terminal and no --json. "
                "A program makes one itself and hands it over with --password-stdin."
            )
        if from_stdin and sys.stdin.isatty():
            raise click.UsageError("--password-stdin would show what you type. Leave it out to be asked.")
        if not generate and not from_stdin and not sys.stdin.isatty():
            raise click.UsageError("There is no terminal to ask on: use --password-stdin.")
        self.generate = generate
        self._from_stdin = from_stdin

    def hashed(self, address: str) -> str | None:
        """Give the hash of the password, None when one is to be made.

        Raises:
            Refusal: the password is no good.
        """
        if self.generate:
            return None
        if self._from_stdin:
            return hash_password(check_password(sys.stdin.readline().removesuffix("\n").removesuffix("\r")))
        try:
            typed = click.prompt(f"Password for {address}", hide_input=True, confirmation_prompt=True, err=True)
        except UnicodeDecodeError:
            typed = "\udcff"  # as from standard input: it is refused in words
        return hash_password(check_password(typed))


@click.group(context_settings=HELP)
def user() -> None:
    """The people who have a mailbox here.

    \b
    Examples:
      darkpipe user list
      darkpipe user add carol@example.com
      darkpipe user password alice@example.com
    """


@user.command("list")
@click.option("--removed", is_flag=True, help="Show addresses that have mail here and no user any more.")
@json_option
def list_users(removed: bool, as_json: bool) -> None:
    """Show all users.

    \b
    Examples:
      darkpipe user list --json
      darkpipe user list --removed
    """
    with in_words(as_json=as_json):
        store = Store()
        accounts = known_accounts(store)
        if removed:
            _list_removed([(address, store.mailbox(address)) for address in store.left_mailboxes(accounts)], as_json)
        elif as_json:
            print_json({"users": [_as_json(found, accounts) for found in accounts.users]})
        else:
            rows = [("USER", "QUOTA", "")]
            rows += [(found.address, _quota(found), "; ".join(_notes(found, accounts))) for found in accounts.users]
            print_table(rows)


@user.command("show")
@click.argument("address")
@json_option
def show(address: str, as_json: bool) -> None:
    """Show one user.

    \b
    Example:
      darkpipe user show alice@example.com
    """
    with in_words(as_json=as_json):
        accounts = known_accounts(Store())
        found = find_user(accounts, address)
        if as_json:
            print_json({"user": _as_json(found, accounts)})
            return
        print_table(
            [
                ("address", found.address),
                ("quota", _quota(found)),
                ("aliases", ", ".join(_aliases(found, accounts)) or "-"),
                ("catch-all", ", ".join(_catch_alls(found, accounts)) or "-"),
                ("administrator", "yes" if found.address in owners(accounts.admin, accounts) else "no"),
                ("password", "set" if found.password_hash else "is made and shown at the next start"),
            ]
        )


@user.command("add")
@click.argument("address")
@click.option("--quota", metavar="SIZE", help="The most that the mailbox may hold, such as 5G or 500M.")
@click.option("--with-old-mail", is_flag=True, help="Take over the mail that an earlier user of the address has left.")
@_generate_option
@_stdin_option
@json_option
def add(
    address: str, quota: str | None, with_old_mail: bool, generate: bool, password_stdin: bool, as_json: bool
) -> None:
    """Add a user; asks for the password.

    \b
    Examples:
      darkpipe user add carol@example.com
      darkpipe user add carol@example.com --quota 5G --generate
      darkpipe user add carol@example.com --password-stdin < password-file
    """
    secret = _Secret(generate=generate, from_stdin=password_stdin, as_json=as_json)
    with in_words(as_json=as_json):
        store, size = Store(), _size(quota)

        def wish(before: Accounts, password_hash: str | None = None) -> Accounts:
            return with_user(before, address, password_hash, size, store, old_mail=with_old_mail)

        accounts = _with_password(wish, secret, mail_address(address))
        _tell(address, accounts, f"{mail_address(address)} has a mailbox now.", as_json=as_json)


@user.command("remove")
@click.argument("address")
@click.option("--with-aliases", is_flag=True, help="Remove the aliases that lead to nobody else as well.")
@json_option
def remove(address: str, with_aliases: bool, as_json: bool) -> None:
    """Take a user's mailbox out of service. The mail is kept on the device.

    \b
    Example:
      darkpipe user remove bob@example.com --with-aliases
    """
    with in_words(as_json=as_json):
        name, store = mail_address(address), Store()
        gone: list[str] = []

        def wish(before: Accounts) -> Accounts:
            after = remove_user(before, name, with_aliases=with_aliases)
            gone[:] = [alias for alias in before.targets if alias not in after.targets]
            return after

        change(wish, end_sessions_of=name)
        kept = store.mailbox(name)
        if as_json:
            print_json({"removed": name, "aliases": gone, "mail": str(kept) if kept.exists() else None})
            return
        click.echo(f"{name} is no user any more.")
        if gone:
            click.echo(f"Aliases that led to nobody else went as well: {', '.join(gone)}.")
        if kept.exists():
            click.echo(f"The mail is kept in {kept}; `darkpipe user list --removed` shows all that was left.")


@user.command("password")
@click.argument("address")
@_generate_option
@_stdin_option
@json_option
def password(address: str, generate: bool, password_stdin: bool, as_json: bool) -> None:
    """Give a user another password, for instance because it was lost; asks for it. Ends the user's sessions.

    \b
    Examples:
      darkpipe user password alice@example.com
      darkpipe user password alice@example.com --generate
    """
    secret = _Secret(generate=generate, from_stdin=password_stdin, as_json=as_json)
    with in_words(as_json=as_json):

        def wish(before: Accounts, password_hash: str | None = None) -> Accounts:
            return set_password(before, address, password_hash)

        accounts = _with_password(wish, secret, mail_address(address), end_sessions_of=mail_address(address))
        _tell(address, accounts, f"{mail_address(address)} has another password now.", as_json=as_json)


@user.command("quota")
@click.argument("address")
@click.argument("size", metavar="SIZE|none")
@json_option
def quota(address: str, size: str, as_json: bool) -> None:
    """Limit what a user's mailbox may hold.

    \b
    Examples:
      darkpipe user quota bob@example.com 5G
      darkpipe user quota bob@example.com none
    """
    with in_words(as_json=as_json):
        wanted = _size(size)
        accounts = change(lambda before: set_quota(before, address, wanted))
        limit = f"at most {quota_text(wanted)}" if wanted else "as much as the disk"
        _tell(address, accounts, f"The mailbox of {mail_address(address)} may hold {limit} now.", as_json=as_json)


@user.command("admin")
@click.argument("address")
@json_option
def admin(address: str, as_json: bool) -> None:
    """Make the user ADDRESS the administrator, who gets reports and mail to postmaster@ and abuse@.

    \b
    Example:
      darkpipe user admin bob@example.com
    """
    with in_words(as_json=as_json):
        accounts = change(lambda before: set_admin(before, address))
        if as_json:
            print_json({"admin": accounts.admin})
        else:
            click.echo(f"{accounts.admin} is the administrator now.")


def _with_password(wish: Callable[..., Accounts], secret: _Secret, address: str, end_sessions_of: str = "") -> Accounts:
    # Tried first without: nobody shall think of a password for a wish that is refused anyway.
    wish(known_accounts(Store()))
    password_hash = secret.hashed(address)
    return change(
        lambda before: wish(before, password_hash), end_sessions_of=end_sessions_of, on_terminal=secret.generate
    )


def _size(text: str | None) -> int | None:
    return None if text is None or text == _NONE else quota_bytes(text)


def _tell(address: str, accounts: Accounts, text: str, *, as_json: bool) -> None:
    if as_json:
        print_json({"user": _as_json(find_user(accounts, address), accounts)})
    else:
        click.echo(text)


def _list_removed(left: Sequence[tuple[str, Path]], as_json: bool) -> None:
    if as_json:
        print_json({"removed": [{"address": address, "mail": str(folder)} for address, folder in left]})
    elif left:
        print_table([("ADDRESS", "MAIL"), *((address, str(folder)) for address, folder in left)])
    else:
        click.echo("There is no mail of removed users.")


def _as_json(found: Account, accounts: Accounts) -> dict[str, Any]:
    return {
        "address": found.address,
        "admin": found.address in owners(accounts.admin, accounts),
        "aliases": _aliases(found, accounts),
        "catch_all": _catch_alls(found, accounts),
        "quota": found.quota,
        "password_set": found.password_hash is not None,
    }


def _notes(found: Account, accounts: Accounts) -> list[str]:
    notes = ["administrator"] if found.address in owners(accounts.admin, accounts) else []
    if names := _aliases(found, accounts):
        notes.append(f"aliases: {', '.join(names)}")
    if names := _catch_alls(found, accounts):
        notes.append(f"catch-all of {', '.join(names)}")
    if found.password_hash is None:
        notes.append("password not shown yet")
    return notes


def _aliases(found: Account, accounts: Accounts) -> list[str]:
    return [alias for alias in accounts.targets if found.address in owners(alias, accounts)]


def _catch_alls(found: Account, accounts: Accounts) -> list[str]:
    return [domain.name for domain in accounts.domains if domain.catch_all == found.address]


def _quota(found: Account) -> str:
    return quota_text(found.quota) if found.quota else "-"
