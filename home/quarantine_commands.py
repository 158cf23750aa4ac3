"""`darkpipe quarantine`: what the relay had taken and home's mail server refused."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import click

from home.command import HELP, in_words, json_option, print_json, print_table
from home.configure import known_accounts
from home.drain_letter import read_letter
from home.quarantine import Kept, Kind, Quarantine
from home.quarantine_release import release
from home.store import Store
from model.account_rules import base
from model.accounts import Accounts
from model.problems import Kind as Problem
from model.problems import Refusal, printable, quoted
from stack.addresses import sender_logins

_LONGEST_HEAD = 256 * 1024


@click.group(context_settings=HELP)
def quarantine() -> None:
    """Messages that the relay had taken while this home was away, and that home then refused or could not open.

    Their senders believe that they have arrived. Look at them, and release or delete them.

    \b
    Examples:
      darkpipe quarantine list
      darkpipe quarantine show 3f2a
      darkpipe quarantine release 3f2a
    """


@quarantine.command("list")
@json_option
def list_kept(as_json: bool) -> None:
    """Show what lies in quarantine, the oldest first.

    \b
    Example:
      darkpipe quarantine list --json
    """
    with in_words(as_json=as_json):
        found, broken = Quarantine().all()
        if as_json:
            print_json({"quarantine": [_as_json(kept) for kept in found], "damaged": list(broken)})
            return
        rows = [("ID", "CAME", "SIZE", "FROM", "FOR", "WHY")]
        rows += [(kept.id[:8], _moment(kept.received), _size(kept.size), *_words(kept)) for kept in found]
        print_table(rows)
        for name in broken:
            click.echo(f"{name} cannot be read", err=True)


@quarantine.command("show")
@click.argument("item")
@click.option("--message", is_flag=True, help="Print the whole message as it came, and nothing else.")
@json_option
def show(item: str, message: bool, as_json: bool) -> None:
    """Show a message in quarantine: who sent it, why it was refused, and its header.

    ITEM is its id, or the beginning of it.

    \b
    Examples:
      darkpipe quarantine show 3f2a
      darkpipe quarantine show 3f2a --message > message.eml
    """
    with in_words(as_json=as_json):
        box = Quarantine()
        kept = box.find(item)
        if message:
            _print_content(box, kept)
            return
        if as_json:
            print_json({"item": {**_as_json(kept), "header": _header(box, kept)}})
            return
        print_table(
            [
                ("id", kept.id),
                ("came", _moment(kept.received)),
                ("size", _size(kept.size)),
                ("client", kept.client or "-"),
                ("from", printable(kept.sender) or "-"),
                *((printable(one.address), printable(one.reply)) for one in kept.recipients),
                *([("why", kept.reason)] if kept.reason else []),
            ]
        )
        for line in _header(box, kept):
            click.echo(f"    {printable(line)}")


@quarantine.command("release")
@click.argument("item")
@click.option("--to", "mailbox", metavar="ADDRESS", help="Put it into this mailbox, whoever it was for.")
@json_option
def release_item(item: str, mailbox: str | None, as_json: bool) -> None:
    """Put a message into the mailboxes of those whom it was for, past the spam filter and the mail server.

    It leaves quarantine when the mailboxes have it; if one of them does not take it, it stays. So it does for those who
    have no mailbox here, until it is put into one by --to.

    \b
    Examples:
      darkpipe quarantine release 3f2a
      darkpipe quarantine release 3f2a --to alice@example.com
    """
    with in_words(as_json=as_json):
        box = Quarantine()
        kept = box.find(item)
        accounts = known_accounts(Store())
        where = _mailboxes(kept, mailbox, accounts)
        left = [] if mailbox else [one for one in kept.recipients if not _getters(one.address, accounts)]
        release(box, kept, [one.number for one in kept.recipients if one not in left], where)
        if as_json:
            print_json({"released": kept.id, "mailboxes": list(where)})
            return
        click.echo(f"{kept.id[:8]} is now in the mailbox of {', '.join(where)}.")
        if left:
            names = ", ".join(printable(one.address) for one in left)
            click.echo(f"It stays in quarantine for {names}, without a mailbox here.")


@quarantine.command("delete")
@click.argument("item")
@json_option
def delete(item: str, as_json: bool) -> None:
    """Delete a message in quarantine for good.

    \b
    Example:
      darkpipe quarantine delete 3f2a
    """
    with in_words(as_json=as_json):
        box = Quarantine()
        kept = box.find(item)
        box.delete(kept)
        if as_json:
            print_json({"deleted": kept.id})
        else:
            click.echo(f"{kept.id[:8]} is deleted.")


def _mailboxes(kept: Kept, given: str | None, accounts: Accounts) -> Sequence[str]:
    """Give the mailboxes that a letter goes to."""
    if given is not None:
        wanted = [given.lower()]
    else:
        wanted = [mailbox for one in kept.recipients for mailbox in _getters(one.address, accounts)]
    found = [mailbox for mailbox in dict.fromkeys(wanted) if accounts.user(mailbox)]
    if kept.kind is Kind.REFUSED and (not found or (given is not None and len(found) != len(wanted))):
        who = quoted(given) if given else ", ".join(quoted(one.address) for one in kept.recipients)
        raise Refusal(
            Problem.UNKNOWN_ADDRESS,
            f"{who}, without a mailbox here",
            "the address of a mailbox",
            "name one by `--to`; `darkpipe user list` shows them",
        )
    return found


def _getters(address: str, accounts: Accounts) -> Sequence[str]:
    """Find the mailboxes that get the mail of an address, in the order in which virtual(5) looks."""
    known, name = sender_logins(accounts), address.lower()
    for key in (name, base(name), f"@{name.rpartition('@')[2]}"):
        if key in known:
            return [mailbox for mailbox in known[key] if accounts.user(mailbox)]
    return []


def _words(kept: Kept) -> tuple[str, str, str]:
    if kept.kind is Kind.SEALED:
        return "-", "-", kept.reason
    why = dict.fromkeys(printable(one.reply) for one in kept.recipients)
    return printable(kept.sender) or "<>", ", ".join(printable(one.address) for one in kept.recipients), "; ".join(why)


def _header(box: Quarantine, kept: Kept) -> list[str]:
    """Give the lines of the message's header, none for what cannot be opened."""
    if kept.kind is Kind.SEALED:
        return []
    with read_letter(box.content(kept)).open() as file:
        head = file.read(_LONGEST_HEAD).partition(b"\r\n\r\n")[0]
    return head.decode("utf-8", "replace").split("\r\n")


def _print_content(box: Quarantine, kept: Kept) -> None:
    path = box.content(kept)
    with path.open("rb") if kept.kind is Kind.SEALED else read_letter(path).open() as file:
        while piece := file.read(64 * 1024):
            sys.stdout.buffer.write(piece)


def _size(octets: int) -> str:
    return f"{octets / 10**6:.1f} MB" if octets >= 10**6 else f"{octets / 1000:.1f} kB"


def _moment(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d %H:%M")


def _as_json(kept: Kept) -> Mapping[str, Any]:
    return kept.model_dump(mode="json", exclude={"format"})
