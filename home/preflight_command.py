"""`darkpipe preflight`."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime

import click

from home.command import in_words, json_option, print_json
from home.dns_commands import address_option
from home.dns_judges import Outcome
from home.pair_state import read_told
from home.preflight import TARGETS, Looked
from home.preflight_job import keep
from home.preflight_world import fly
from home.relay_addresses import Address
from home.seen import PREFLIGHT
from home.store import Store
from model.names import domain_name
from model.problems import printable


@click.command("preflight")
@click.option(
    "--target",
    "targets",
    multiple=True,
    metavar="DOMAIN",
    help=f"Call the mail server of this domain instead; may be given several times. [{', '.join(TARGETS)}]",
)
@address_option
@json_option
def preflight_command(targets: Sequence[str], given: Sequence[Address], as_json: bool) -> None:
    """Look whether mail can come in and go out through the relay, before you tell anybody your address.

    It calls mail servers of the world and says nothing but a greeting, asks block lists for the relay's address, and
    calls the relay from home's own line. The exit status is 0 when all is good or there are warnings only, or a block
    list that does not answer, and 1 when something is wrong or could not be found out. It takes up to a minute. What it
    has found without options is kept for `darkpipe status` and the device's page.

    \b
    Examples:
      darkpipe preflight
      darkpipe preflight --target example.net --json
    """
    with in_words(as_json=as_json):
        store, began = Store(), datetime.now(UTC)
        found = fly(store, [domain_name(target) for target in targets] or TARGETS, given)
        if not targets and not given and (kept := store.data / PREFLIGHT).parent.is_dir():
            pairing = read_told()
            keep(kept, found, began, datetime.now(UTC), pairing.relay_id if pairing else "")
        if as_json:
            steps = [asdict(each) for each in found.looked]
            print_json({"outcome": found.outcome, "steps": steps, "unknown": list(found.unknown)})
        else:
            click.echo("\n".join(lines(found.looked, found.unknown)))
        sys.exit(0 if found.outcome in {Outcome.GOOD, Outcome.WARNING} else 1)


def lines(looked: Sequence[Looked], unknown: Sequence[str]) -> Iterator[str]:
    """Write the steps for people."""
    yield from (f"{'UNKNOWN':8} {text}" for text in unknown)
    for each in looked:
        word = each.outcome.upper() if each.outcome.rank > 2 else each.outcome
        # Servers of the world have their say in it.
        yield f"{word:8} {each.what}: {printable(each.text)}"
        if each.outcome != "good":
            yield f"         {each.proves}"
            yield f"         do: {printable(each.remedy)}"
