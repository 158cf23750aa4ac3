"""`./darkpipe init`: a new site.yaml from questions, or from flags alone."""

from __future__ import annotations

import getpass
import sys
import textwrap
from pathlib import Path

import click


@click.command()
@click.argument("site", type=click.Path(path_type=Path), default=Path("site.yaml"))
@click.option("--domain", "domains", multiple=True, metavar="DOMAIN", help="A mail domain; the first is the primary.")
@click.option(
    "--user", "users", multiple=True, metavar="ADDRESS[,ALIAS]…", help="A mailbox and its aliases; repeatable."
)
@click.option("--password", metavar="HOW", help="First passwords: generate, prompt, or an argon2id hash.")
@click.option("--admin", metavar="ADDRESS", help="Who gets reports; default: the first mailbox.")
@click.option("--mail-server", metavar="NAME", help="Which programs take, keep and show mail.")
@click.option("--relay", metavar="HOST", help="Name or IP address of the relay; default: none.")
@click.option("--unlock", metavar="HOW", help="How the data disk is unlocked; there is no default.")
def init(
    site: Path,
    domains: tuple[str, ...],
    users: tuple[str, ...],
    password: str | None,
    admin: str | None,
    mail_server: str | None,
    relay: str | None,
    unlock: str | None,
) -> None:
    """Make a site file; SITE is site.yaml when it is not named, and is never overwritten.

    Asks for what the flags do not say; Enter takes the answer in brackets. Without a terminal it asks nothing and takes
    the defaults. Every answer is checked at once, by the same rules as `./darkpipe check`.

    \b
    Examples:
      ./darkpipe init
      ./darkpipe init home.yaml --domain example.com --user alice@example.com,info@example.com --unlock none
    """
    from builder.interview import Given, interview
    from builder.site_file import refuse_existing, write_site

    refuse_existing(site)
    given = Given(domains, users, password, admin, mail_server, relay, unlock)
    terminal = _Terminal() if sys.stdin.isatty() and sys.stderr.isatty() else None
    made = interview(given, terminal, getpass.getuser())
    write_site(site, made)
    relay = f", and for the relay: ./darkpipe user-data {site}" if made.relays else ""
    click.echo(f"Written. Now: ./darkpipe build {site}{relay}", err=True)
    click.echo(site)


class _Terminal:
    """Questions on standard error, so that standard output has nothing but the file's name."""

    def say(self, text: str) -> None:
        click.echo(err=True)
        for paragraph in text.splitlines():
            click.echo(textwrap.fill(paragraph, 80), err=True)

    def ask(self, prompt: str, default: str | None) -> str:
        answer: str = click.prompt(prompt, default=default, show_default=bool(default), err=True)
        return answer
