"""What the pre-flight acts with on a device, and one run of it."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path

from home.configure import known_accounts
from home.dns_commands import known_records
from home.dns_judges import Outcome
from home.pair_state import read_told
from home.preflight import SMTP, TARGETS, Looked, Step, Visit, World, preflight
from home.relay_addresses import Address
from home.smtp_call import Call, CallError, call, call_as
from home.store import Store
from stack.certificate import CertificateError, digest

_OPEN = "60s"
"""How long the firewall lets root call the relay's port 25: longer than a call takes."""

_VISITS = ("--identifier=postfix/tunnel/smtpd", "--grep=^connect from ", "--lines=1", "--reverse")
_WEEK = 7 * 24 * 3600


@dataclass(frozen=True)
class Flight:
    """What one run has found.

    Args:
        unknown: what is missing of the records, in words.
    """

    looked: tuple[Looked, ...]
    unknown: tuple[str, ...]

    @property
    def outcome(self) -> Outcome:
        """The worst of it."""
        outcomes = [_weight(each) for each in self.looked] + [Outcome.UNKNOWN] * bool(self.unknown)
        return max(outcomes, key=lambda each: each.rank, default=Outcome.UNKNOWN)


def _weight(looked: Looked) -> Outcome:
    # Some lists never answer some networks, and lists come to their end; their owner can do nothing about either.
    is_silent = looked.step is Step.BLOCK_LIST and looked.outcome is Outcome.UNKNOWN
    return Outcome.WARNING if is_silent else looked.outcome


def fly(store: Store, targets: Sequence[str] = TARGETS, given: Sequence[Address] = ()) -> Flight:
    """Look at all of it once; it takes up to a minute.

    Args:
        targets: domains whose mail servers are called.
        given: addresses of the relay that somebody has named; others do not count then.

    Raises:
        Refusal: the device was not set up.
        OSError, StoreError, DkimError: a file cannot be read.
    """
    from home.dns_lookup import RealDns

    dns, accounts = RealDns(), known_accounts(store)
    records, relay = known_records(accounts, given, dns)
    pairing = read_told()
    mx_host = accounts.mx_host
    world = World(
        dns=dns,
        call_out=lambda address, port: call_as("postfix", address, port, mx_host),
        call_in=lambda address, port: call_relay(address, port, mx_host),
        visit=lambda: latest_visit(pairing.changed if pairing else 0),
        certificate=fingerprint(store.certificate),
        targets=targets,
    )
    return Flight(preflight(records, relay, mx_host, world), tuple(records.unknown))


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


def latest_visit(paired: int, now: Callable[[], float] = time.time) -> Visit | None:
    """Find the latest mail server of the world that came in through the relay, in the journal of the last week.

    Args:
        paired: when the keys came that hold, seconds since 1970: who came before may have come through another relay.
    """
    since = max(paired, int(now()) - _WEEK)
    return parse_visit(_run(["journalctl", "--output=json", f"--since=@{since}", *_VISITS]).stdout)


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
        return digest(path.read_text(encoding="ascii", errors="replace")).hex()
    except (FileNotFoundError, CertificateError):
        return None


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    except OSError as error:
        return subprocess.CompletedProcess(command, 127, "", str(error))
