"""States of a device, as the page gets them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from home.desk_facts import Facts, MailServer, User
from home.dns_judges import Outcome
from home.pair_state import Stage
from home.pair_state import Told as Pairing
from home.preflight import Looked
from home.preflight import Step as Flown
from home.preflight_job import Preflight
from home.readings import Clock, Configuration, Disk, Image, Problem, Queue, Unit
from home.seen import DnsSeen, PreflightSeen, Seen
from home.status import CertificateState, Probed, ServiceState, Status
from home.trial_message import Fate, Message, Told
from home.tunnel_state import Tunnel

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)

SEEN = Seen(
    relay="mx.example.com",
    dns=DnsSeen(at=NOW, outcomes={Outcome.GOOD: 9}),
    preflight=PreflightSeen(boot="b", began=0.0, began_at=NOW, finished_at=NOW, outcome=Outcome.GOOD),
)

GOOD_PROBE = Probed(probe="smtp", target="127.0.0.1:25", good=True, text="takes mail", to_receive=True)


def service(name: str, *probes: Probed, state: str = "active") -> ServiceState:
    """Make a service that has run for an hour."""
    return ServiceState(unit=Unit(name=name, state=state, since=NOW - timedelta(hours=1)), probes=probes)


def tunnel(**changes: Any) -> Tunnel:
    """Make a tunnel that is up."""
    return Tunnel(
        relay="mx.example.com",
        up=True,
        handshake_seconds=42,
        endpoint="203.0.113.7:51820",
        since=NOW - timedelta(days=3),
        error=None,
    ).model_copy(update=changes)


def status(**changes: Any) -> Status:
    """Make the state of a device that is well."""
    return Status(
        ready=True,
        problems=(),
        image=Image(version="0.1.0", profile="x64", project="0" * 64),
        configuration=Configuration(generation="0123456789abcdef", refused=False),
        disk=Disk(size=64 * 10**9, free=48 * 10**9, write_error=None, errors={}, encrypted=True),
        queue=Queue(messages={"active": 0, "deferred": 0, "hold": 0, "incoming": 0}, oldest_seconds=None),
        services=(service("postfix", GOOD_PROBE), service("dovecot", GOOD_PROBE)),
        certificates=(
            CertificateState(
                path="/x", names=("mail.example.com",), expires=NOW + timedelta(days=60), self_signed=True
            ),
        ),
        clock=Clock(now=NOW, synchronized=True, kept=True, built=NOW - timedelta(days=30)),
        tunnel=tunnel(),
        waiting=None,
        seen=SEEN,
    ).model_copy(update=changes)


TROUBLED = status(
    ready=False,
    problems=(
        Problem(
            found="dovecot does not work (lmtp): connection refused",
            remedy="see what it says: journalctl -b -u dovecot; start it anew: systemctl restart dovecot",
            blocks_mail=True,
        ),
        Problem(found="the disk has 3.1 GB of 64.0 GB left", remedy="remove mail, or take a larger disk"),
    ),
    disk=Disk(size=64 * 10**9, free=31 * 10**8, write_error=None, errors={"read_errs": 2}),
    queue=Queue(messages={"active": 1, "deferred": 2, "hold": 0, "incoming": 0}, oldest_seconds=90_000),
    services=(
        service("postfix", GOOD_PROBE),
        service("dovecot", GOOD_PROBE.model_copy(update={"good": False, "text": "connection refused"})),
        service("unbound", state="failed"),
    ),
    tunnel=tunnel(up=False, error="no answer of the relay"),
)


def record(**changes: Any) -> dict[str, Any]:
    """Make a record as `darkpipe dns records --json` has it."""
    return {
        "name": "example.com",
        "type": "MX",
        "value": "10 mx.example.com.",
        "domain": "example.com",
        "role": "mx",
        "need": "required",
        "place": "zone",
        "purpose": "Where mail for the domain goes.",
        "why": "Without it nothing arrives.",
        "ttl": 3600,
        "data": "10 mx.example.com.",
        **changes,
    }


def checked(outcome: str, **changes: Any) -> dict[str, Any]:
    """Make a record as `darkpipe dns check --json` has it."""
    found = record(**changes)
    del found["data"]
    return {
        "expected": found["value"],
        "outcome": outcome,
        "found": [found["value"]] if outcome == "good" else ["10 mail.other.example."],
        "text": "it is published" if outcome == "good" else "another value is published",
        "remedy": "" if outcome == "good" else "replace it",
        "zone": "example.com",
        "servers": [],
        **found,
    }


def pairing(stage: Stage, trouble: str = "", settings: int = 3) -> Pairing:
    """Make what darkpipe-pair says."""
    return Pairing(written=0.0, stage=stage, relay="mx.example.com", trouble=trouble, settings=settings)


def preflight(outcome: Outcome | None = Outcome.GOOD, **changes: Any) -> Preflight:
    """Make a pre-flight that is done."""
    looked = Looked(
        Flown.PORT_25_OUT, "port 25 to the world", outcome or Outcome.GOOD, "mx.example.net answers", "so", ""
    )
    return Preflight(boot="b", began=0.0, began_at=NOW, finished_at=NOW, outcome=outcome, steps=(looked,)).model_copy(
        update=changes
    )


def message(fate: Fate = Fate.SENT, reply: str = "250 2.0.0 Ok") -> Told:
    """Make what became of a test message."""
    sent = Message(queue_id="4abc", sender="alice@example.com", recipient="alice@example.net", sent_at=NOW)
    return Told(message=sent, fate=fate, server="mx.example.net[203.0.113.9]:25", reply=reply)


def facts(**changes: Any) -> Facts:
    """Make how far a device is that has been set up."""
    return Facts(
        relay="mx.example.com",
        pairing=pairing(Stage.PAIRED),
        dns=DnsSeen(at=NOW, outcomes={Outcome.GOOD: 9}),
        preflight=preflight(),
        preflight_runs=False,
        users=(
            User(address="alice@example.com", is_admin=True, has_password=True),
            User(address="bob@example.com", is_admin=False, has_password=True),
        ),
        mail_server=MailServer(host="mail.example.com", fingerprint=":".join(["9F"] * 32)),
        message=message(),
    ).model_copy(update=changes)


FRESH = facts(pairing=pairing(Stage.NO_RELAY), dns=None, preflight=None, message=None)
"""A device that was unlocked just now."""
