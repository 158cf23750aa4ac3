"""`darkpipe preflight`, and what it acts with on a device."""

from __future__ import annotations

import hashlib
import json
import re
import ssl
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path

import click

from home.command import in_words, json_option, print_json
from home.configure import known_accounts
from home.dns_commands import address_option, known_records
from home.preflight import SMTP, TARGETS, Looked, Visit, World, preflight
from home.relay_addresses import Address
from home.smtp_call import Call, CallError, call, call_as
from home.store import Store
from model.names import domain_name

_OPEN = "60s"
"""How long the firewall lets root call the relay's port 25: longer than a call takes."""

_VISITS = ("--identifier=postfix/tunnel/smtpd", "--grep=^connect from ", "--since=-7d", "--lines=1", "--reverse")


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
    calls the relay from home's own line. The exit status is 0 when all is good or there are warnings only, and 1 when
    something is wrong or could not be found out. It takes up to a minute.

    \b
    Examples:
      darkpipe preflight
      darkpipe preflight --target example.net --json
    """
    from home.dns_judges import Outcome
    from home.dns_lookup import RealDns

    with in_words(as_json=as_json):
        store, dns = Store(), RealDns()
        accounts = known_accounts(store)
        records, relay = known_records(accounts, given, dns)
        mx_host = accounts.mx_host
        world = World(
            dns=dns,
            call_out=lambda address, port: call_as("postfix", address, port, mx_host),
            call_in=lambda address, port: call_relay(address, port, mx_host),
            visit=latest_visit,
            certificate=fingerprint(store.certificate),
            targets=[domain_name(target) for target in targets] or TARGETS,
        )
        looked = preflight(records, relay, mx_host, world)
        outcome = max((each.outcome for each in looked), key=lambda each: each.rank, default=Outcome.UNKNOWN)
        if records.unknown:
            outcome = max(outcome, Outcome.UNKNOWN, key=lambda each: each.rank)
        if as_json:
            steps = [asdict(each) for each in looked]
            print_json({"outcome": outcome, "steps": steps, "unknown": list(records.unknown)})
        else:
            click.echo("\n".join(lines(looked, records.unknown)))
        sys.exit(0 if outcome in {Outcome.GOOD, Outcome.WARNING} else 1)


def lines(looked: Sequence[Looked], unknown: Sequence[str]) -> Iterator[str]:
    """Write the steps for people."""
    yield from (f"{'UNKNOWN':8} {text}" for text in unknown)
    for each in looked:
        word = each.outcome.upper() if each.outcome.rank > 2 else each.outcome
        yield f"{word:8} {each.what}: {each.text}"
        if each.outcome != "good":
            yield f"         {each.proves}"
            yield f"         do: {each.remedy}"


def call_relay(address: str, port: int, name: str) -> Call:
    """Call the relay from home's own line, which the firewall lets root do on port 25 for a moment.

    Raises:
        CallError: it does not answer.
    """
    if port == SMTP:
        element = f"{{ {ip_address(address)} timeout {_OPEN} }}"
        opened = _run(["nft", "add", "element", "inet", "darkpipe", "own_relay", element])
        if opened.returncode != 0:
            raise CallError(f"the firewall cannot be opened for it: {opened.stderr.strip()}")
    return call(address, port, name, starttls=port == SMTP)


def latest_visit() -> Visit | None:
    """Find the latest mail server of the world that came in through the relay, in the journal of the last week."""
    return parse_visit(_run(["journalctl", "--output=json", *_VISITS]).stdout)


def parse_visit(text: str) -> Visit | None:
    """Read a line of `journalctl -o json` with Postfix's "connect from NAME[ADDRESS]"."""
    try:
        entry = json.loads(text.splitlines()[0])
        found = re.fullmatch(r"connect from (\S+)\[([0-9a-fA-F.:]+)\]", entry["MESSAGE"])
        if found is None or not ip_address(found[2]).is_global:
            return None
        at = datetime.fromtimestamp(int(entry["__REALTIME_TIMESTAMP"]) / 1e6, UTC)
    except (IndexError, KeyError, TypeError, ValueError):
        return None
    return Visit(at, f"{found[1]} [{found[2]}]")


def fingerprint(path: Path) -> str | None:
    """Give the SHA-256 of the certificate in a PEM file that may hold a key as well; None without one."""
    try:
        text = path.read_text()
    except FileNotFoundError:
        return None
    found = re.search(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", text, re.DOTALL)
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(found[0])).hexdigest() if found else None


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    except OSError as error:
        return subprocess.CompletedProcess(command, 127, "", str(error))
