"""What is looked at when somebody asks, and kept with its date: the DNS records, and the pre-flight.

Page and commands keep it in the same place, so that it makes no difference who has looked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, ValidationError

from home.dns_judges import Outcome
from home.dns_records import RecordType
from home.pair_state import Told, read_told
from home.readings import Reading
from home.relay_addresses import endpoint
from home.store import Store, StoreError, read_accounts
from home.tunnel_state import Tunnel, read_tunnel
from model.document import SiteError, read_site
from stack.durable import write_atomically

DNS = Path("page/dns.json")
PREFLIGHT = Path("setup/preflight.json")
"""Both below `data`."""

LONGEST = 180.0
"""Seconds of a pre-flight; it takes up to a minute, and systemd ends it after these (TimeoutStartSec= in the unit)."""


class DnsSeen(Reading):
    """What the last check of the records has found.

    Args:
        at: when.
        outcomes: how many records stand how.
        relay: addresses that names were to lead to.
        domains: whose records they were.
    """

    at: datetime
    outcomes: dict[Outcome, int]
    relay: tuple[str, ...] = ()
    domains: tuple[str, ...] = ()

    def counts(self, tunnel: Tunnel | None, domains: Iterable[str]) -> bool:
        """Tell whether it was of all domains that there are now, and of the relay that the tunnel leads to."""
        address = endpoint(tunnel)
        return set(domains) <= set(self.domains) and (address is None or str(address) in self.relay)

    @property
    def worst(self) -> Outcome:
        """The worst of them."""
        found = (each for each, number in self.outcomes.items() if number)
        return max(found, key=lambda each: each.rank, default=Outcome.UNKNOWN)

    @property
    def text(self) -> str:
        """How it is, and as of when, in a sentence without its period."""
        return f"{self.found}; {self.when}"

    @property
    def when(self) -> str:
        """As of when it is."""
        return f"looked at {self.at:%Y-%m-%d %H:%M} UTC"

    @property
    def found(self) -> str:
        """How it is, in a sentence without its period."""
        total = sum(self.outcomes.values())
        faults = sum(self.outcomes.get(each, 0) for each in (Outcome.WRONG, Outcome.UNKNOWN))
        match self.worst:
            case Outcome.GOOD:
                return f"All {total} records are there"
            case Outcome.WARNING:
                # One that is recommended only may be missing.
                number = self.outcomes[Outcome.WARNING]
                return f"What mail needs is there; {number} of {total} records should be looked at"
            case Outcome.WAITING:
                return "The records are not everywhere yet"
        return f"{faults} of {total} records are wrong or not to be found"


class PreflightSeen(Reading):
    """What the last pre-flight has come to.

    Args:
        boot: which start of the device it was begun in; empty for a command, which nobody waits for.
        began: when, seconds of CLOCK_MONOTONIC, which counts from that start.
        began_at: when, by the clock.
        finished_at: None until it is done.
        outcome: the worst of all steps; None until it is done, and when it could not be done.
        error: why it could not be done; empty otherwise.
        relay: id of the relay that home was paired with then; empty without.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    format: Literal[1] = 1
    boot: str
    began: float
    began_at: datetime
    finished_at: datetime | None = None
    outcome: Outcome | None = None
    error: str = ""
    relay: str = ""

    @property
    def passed(self) -> bool:
        """Whether mail can come and go, as far as this shows."""
        return self.outcome in {Outcome.GOOD, Outcome.WARNING}

    def runs(self, boot: str, now: float) -> bool:
        """Tell whether it is under way; one that was cut off is not.

        Args:
            boot: which start of the device it is.
            now: seconds of CLOCK_MONOTONIC.
        """
        return self.finished_at is None and self.boot == boot and now - self.began < LONGEST

    def counts(self, pairing: Told | None) -> bool:
        """Tell whether it was made with the relay that home has now."""
        return pairing is None or pairing.relay_id == self.relay

    @property
    def text(self) -> str:
        """What it has come to, in a sentence without its period."""
        if self.finished_at is None:
            return "It was cut off"
        at = f"{self.finished_at:%Y-%m-%d %H:%M} UTC"
        if self.error:
            return f"It could not be done, {at}"
        if self.passed:
            return f"Mail can come and go, seen {at}"
        return f"Something keeps mail away or could not be seen, {at}"


class Seen(Reading):
    """All of it, for a status.

    Args:
        relay: what the site calls its relay; empty without one.
        dns: of the records that are wanted now; None while nobody has looked.
        preflight: of the relay that home has now; None without.
    """

    relay: str = ""
    dns: DnsSeen | None = None
    preflight: PreflightSeen | None = None

    @property
    def shows_mail(self) -> bool:
        """Whether somebody may be told that mail comes and goes: a pre-flight has passed, or there is no relay."""
        return not self.relay or (self.preflight is not None and self.preflight.passed)


def read_dns(path: Path) -> DnsSeen | None:
    """Read it; None when nobody has looked, or when the file says nothing that this version understands."""
    try:
        return DnsSeen.model_validate_json(path.read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def keep_dns(path: Path, checks: Sequence[Mapping[str, Any]], unknown: int, at: datetime) -> None:
    """Keep what a check of all records has found.

    Args:
        checks: as `home.dns_checks.Check.as_json` gives them.
        unknown: how many things are missing of the records, since nobody knows them.

    Raises:
        OSError: it cannot be kept.
    """
    hosts = {RecordType.A, RecordType.AAAA}
    seen = DnsSeen(
        at=at,
        outcomes=dict(Counter([*(Outcome(row["outcome"]) for row in checks), *[Outcome.UNKNOWN] * unknown])),
        relay=tuple(dict.fromkeys(row["expected"] for row in checks if row["type"] in hosts)),
        domains=tuple(dict.fromkeys(row["domain"] for row in checks)),
    )
    write_atomically(path, seen.model_dump_json().encode() + b"\n", 0o600)


def relay_name(store: Store) -> str:
    """Give what the site calls its relay; empty without one.

    Raises:
        SiteError, OSError: the site cannot be read.
    """
    site = read_site(store.site) if store.site.exists() else None
    return site.relays[0].address if site and site.relays else ""


def _domains(store: Store) -> Sequence[str]:
    try:
        accounts = read_accounts(store.accounts)
    except StoreError:
        return ()  # a problem of its own
    return [domain.name for domain in accounts.domains] if accounts else ()


def read_seen(store: Store) -> Seen:
    """Read all of it.

    Raises:
        OSError: the disk fails.
    """
    try:
        relay = relay_name(store)
    except SiteError:
        relay = ""  # `darkpipe apply` says what is wrong with it
    try:
        last = PreflightSeen.model_validate_json((store.data / PREFLIGHT).read_bytes())
    except (FileNotFoundError, ValidationError):
        last = None
    dns = read_dns(store.data / DNS)
    return Seen(
        relay=relay,
        dns=dns if dns and dns.counts(read_tunnel(), _domains(store)) else None,
        preflight=last if last and last.counts(read_told()) else None,
    )
