"""`darkpipe dkim`: what to publish so that the world can check this home's signatures."""

from __future__ import annotations

import click

from home.command import in_words, json_option, print_json
from home.configure import known_accounts
from home.store import Store
from stack.dkim import records


@click.command()
@json_option
def dkim(as_json: bool) -> None:
    """Show the DNS records that the signatures of outgoing mail need, as lines of a zone file.

    Publish all of them, for every domain: each message has two signatures, and a receiver checks those that it can.

    \b
    Example:
      darkpipe dkim --json
    """
    with in_words(as_json=as_json):
        store = Store()
        found = records(store.dkim_keys, [domain.name for domain in known_accounts(store).domains])
        if as_json:
            listed = [
                {"domain": record.domain, "selector": record.selector, "name": record.name, "value": record.value}
                for record in found
            ]
            print_json({"records": listed})
            return
        for record in found:
            click.echo(record.zone_line)
