"""`darkpipe dns`: what has to stand in DNS, and whether it does."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

import click

from home.command import HELP, in_words, json_option, print_json
from home.configure import known_accounts
from home.dns_records import Place, Record, Records, RecordType, RelayAddresses, dns_records, strings, zone_text
from home.relay_addresses import Address, addresses, relay_name
from home.store import Store
from home.tunnel_state import read_tunnel
from model.accounts import Accounts
from model.names import domain_name
from model.problems import Kind, Refusal, printable, quoted
from stack.addresses import unicode_domain
from stack.dkim import records as dkim_records

if TYPE_CHECKING:
    from home.dns_answer import Dns
    from home.dns_checks import Check

_SIGNS = {"good": "good", "warning": "warning", "waiting": "waiting", "unknown": "UNKNOWN", "wrong": "WRONG"}


def _parse(_context: click.Context, _option: click.Parameter, texts: Sequence[str]) -> tuple[Address, ...]:
    try:
        return tuple(ip_address(text) for text in texts)
    except ValueError as error:
        raise click.BadParameter(f"{error}; write one such as 203.0.113.7") from None


address_option = click.option(
    "--address",
    "given",
    callback=_parse,
    multiple=True,
    help="The relay's address, IPv4 or IPv6; both by giving it twice. Without it: as far as the device knows.",
)


@click.group("dns", context_settings=HELP)
def dns_group() -> None:
    """What your domains' DNS has to say, for mail to arrive and to be believed.

    \b
    Examples:
      darkpipe dns records
      darkpipe dns zone > darkpipe.zone
      darkpipe dns check
    """


@dns_group.command("records")
@click.argument("domain", required=False)
@address_option
@json_option
def records_command(domain: str | None, given: Sequence[Address], as_json: bool) -> None:
    """Show each record with what it is for, to be entered one by one; of DOMAIN alone if one is named.

    A value is shown as most panels for DNS want it: in one piece, without quotes and without a dot at the end.

    \b
    Examples:
      darkpipe dns records
      darkpipe dns records example.org
      darkpipe dns records --address 203.0.113.7 --address 2001:db8::7 --json
    """
    with in_words(as_json=as_json):
        accounts = known_accounts(Store())
        found, _ = known_records(accounts, given)
        shown = [record for record in found.records if record.domain in _wanted(accounts, domain)]
        if as_json:
            told = {"unknown": list(found.unknown), "doubts": list(found.doubts)}
            print_json({"records": [record_json(record) for record in shown], **told})
            return
        click.echo("\n".join(_record_lines(shown, (*found.unknown, *found.doubts))))


@dns_group.command("zone")
@click.argument("domain", required=False)
@address_option
@json_option
def zone_command(domain: str | None, given: Sequence[Address], as_json: bool) -> None:
    """Show the records as a zone file (RFC 1035), for import; of DOMAIN alone if one is named.

    There is no SOA and no NS record in it: it is for a zone that exists. PTR records stand in comments, since they are
    the provider's.

    \b
    Examples:
      darkpipe dns zone
      darkpipe dns zone example.org > example.org.zone
    """
    with in_words(as_json=as_json):
        accounts = known_accounts(Store())
        found, _ = known_records(accounts, given)
        text = zone_text(found, _wanted(accounts, domain))
        if as_json:
            print_json({"zone": text})
            return
        click.echo(text, nl=False)


@dns_group.command("check")
@click.argument("domain", required=False)
@address_option
@click.option("--all", "everything", is_flag=True, help="Show what is good in full as well.")
@json_option
def check_command(domain: str | None, given: Sequence[Address], everything: bool, as_json: bool) -> None:
    """Check each record at the name servers of its zone; of DOMAIN alone if one is named.

    It takes some seconds, and less than a minute whatever hangs. What a check of all domains has found is kept for
    `darkpipe status` and the device's page. The exit status is 0 when all is good or there are
    warnings only, and 1 when something is wrong, unknown, or not yet everywhere.

    \b
    Examples:
      darkpipe dns check
      until darkpipe dns check example.org; do sleep 60; done
      darkpipe dns check --json | jq '.checks[] | select(.outcome != "good")'
    """
    from home.dns_checks import check_records, worst
    from home.dns_judges import Outcome
    from home.dns_lookup import RealDns
    from home.seen import DNS, keep_dns

    with in_words(as_json=as_json):
        accounts = known_accounts(Store())
        dns = RealDns()
        found, relay = known_records(accounts, given, dns)
        wanted = _wanted(accounts, domain)
        checks = [check for check in check_records(found, relay, dns) if check.record.domain in wanted]
        if domain is None and not given and (kept := Store().data / DNS).parent.is_dir():
            keep_dns(kept, [check.as_json() for check in checks], len(found.unknown), datetime.now(UTC))
        outcome = max((worst(checks), Outcome.UNKNOWN if found.unknown else Outcome.GOOD), key=lambda each: each.rank)
        if as_json:
            all_checks = [check.as_json() for check in checks]
            print_json({"outcome": outcome, "checks": all_checks, "unknown": list(found.unknown)})
        else:
            click.echo("\n".join(_check_lines(checks, found.unknown, everything)))
        sys.exit(0 if outcome in {Outcome.GOOD, Outcome.WARNING} else 1)


def record_json(record: Record) -> dict[str, Any]:
    """Give a record as a JSON object: `data` and `strings` are as a zone file has them."""
    more: dict[str, Any] = {"data": record.data}
    if record.type is RecordType.TXT:
        more["strings"] = list(strings(record.value))
    return asdict(record) | more


def known_records(
    accounts: Accounts, given: Sequence[Address], dns: Dns | None = None
) -> tuple[Records, RelayAddresses]:
    """Give the records that this device needs, and the addresses of its relay that they stand on.

    Args:
        given: addresses of the relay that somebody has named; others do not count then.
    """
    from home.dns_lookup import RealDns

    store = Store()
    relay = addresses(given, relay_name(store.tunnel), read_tunnel(), (dns or RealDns()).resolve)
    names = [domain.name for domain in accounts.domains]
    return dns_records(accounts, dkim_records(store.dkim_keys, names), relay), relay


def _wanted(accounts: Accounts, domain: str | None) -> Sequence[str]:
    known = [each.name for each in accounts.domains]
    if domain is None:
        return known
    name = domain_name(domain)
    if name not in known:
        raise Refusal(
            Kind.UNKNOWN_DOMAIN,
            f"the domain {quoted(domain)}",
            f"one of this home's: {', '.join(known)}",
            "name one of them, or none for all",
        )
    return [name]


def _record_lines(records: Sequence[Record], unknown: Sequence[str]) -> Iterator[str]:
    yield from (f"! {text}" for text in unknown)
    domain = None
    for record in records:
        if record.domain != domain:
            domain = record.domain
            yield f"\n==== {_title(domain)} ===="
        where = "; set it at the relay's provider" if record.place is Place.PROVIDER else ""
        yield f"\n{record.name}  {record.type}  ({record.need}{where})"
        yield f"{record.value}"
        yield f"    {record.purpose}"
        yield f"    {record.why}"


def _title(domain: str) -> str:
    written = unicode_domain(domain)
    return domain if written == domain else f"{written}, in DNS {domain}"


def _check_lines(checks: Sequence[Check], unknown: Sequence[str], everything: bool) -> Iterator[str]:
    yield from (f"{_SIGNS['unknown']:8} {text}" for text in unknown)
    for check in checks:
        # What is published may be anybody's.
        yield f"{_SIGNS[check.outcome]:8} {check.record.type:5} {check.record.name}: {printable(check.text)}"
        if check.outcome == "good" and not everything:
            continue
        yield f"         found:    {printable(' | '.join(check.found)) or 'nothing'}"
        yield f"         expected: {check.record.value}"
        yield f"         why:      {check.record.purpose} {check.record.why}"
        if check.remedy:
            yield f"         do:       {printable(check.remedy)}"
