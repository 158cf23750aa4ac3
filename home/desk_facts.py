"""How far the device is with what it takes until mail comes and goes: what is kept of it, and what services say."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from firstboot.page.certificate import fingerprint
from home import trial_message
from home.configure import known_accounts
from home.pair_state import Told, read_told
from home.preflight_job import Preflight, boot_id, read_preflight
from home.seen import PREFLIGHT, DnsSeen, keep_dns, read_dns, relay_name
from home.store import Store
from home.tunnel_state import read_tunnel
from model.account_rules import owners
from model.accounts import Accounts
from stack.certificate import CertificateError


class _Fact(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class User(_Fact):
    """Somebody with a mailbox.

    Args:
        has_password: whether one was set, or made and shown.
    """

    address: str
    is_admin: bool
    has_password: bool


class MailServer(_Fact):
    """Where mail apps come in.

    Args:
        host: the name of the mail server for them.
        fingerprint: of its certificate, SHA-256; empty without one that can be read.
    """

    host: str
    fingerprint: str


class Facts(_Fact):
    """All of it.

    Args:
        relay: what the site calls its relay; empty without one.
        pairing: what darkpipe-pair says; None while it does not run.
        dns: how the records that are wanted now were found; None while nobody has looked.
        preflight: the last one; None without.
        preflight_runs: whether it is under way.
        message: what became of the test message; None without one.
        message_stays: whether that went to a mailbox here, which shows nothing of the way out.
    """

    relay: str
    pairing: Told | None
    dns: DnsSeen | None
    preflight: Preflight | None
    preflight_runs: bool
    users: tuple[User, ...]
    mail_server: MailServer
    message: trial_message.Told | None
    message_stays: bool = False


class Watched:
    """Keeps what the last check has found.

    Args:
        records: looks.
        path: the file where it is kept.
    """

    def __init__(
        self,
        records: Callable[[bool], Mapping[str, Any]],
        path: Path,
        wall: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._records, self._path, self._wall = records, path, wall

    def __call__(self, check: bool) -> Mapping[str, Any]:
        """Look.

        Raises:
            OSError: the disk has failed; besides, what `records` raises.
        """
        found = self._records(check)
        if check:
            keep_dns(self._path, found["records"], len(found["unknown"]), self._wall())
        return found

    @property
    def seen(self) -> DnsSeen | None:
        """What it was; None when nobody has looked."""
        return read_dns(self._path)


def read_facts(store: Store, dns: DnsSeen | None, hand: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> Facts:
    """Read all of it.

    Args:
        dns: what the last check has found, of whatever records.
        hand: asks darkpipe-hand.

    Raises:
        Refusal: the device was not set up.
        OSError, StoreError, SiteError: a file cannot be used.
    """
    accounts = known_accounts(store)
    domains = {domain.name for domain in accounts.domains}
    preflight, message = read_preflight(store.data / PREFLIGHT), trial_message.read_told(store)
    if message and not message.is_settled and (told := hand({"do": "show-test"}).get("message")):
        message = trial_message.Told.model_validate(told)
    return Facts(
        relay=relay_name(store),
        pairing=read_told(),
        dns=dns if dns and dns.counts(read_tunnel(), domains) else None,
        preflight=preflight,
        preflight_runs=preflight is not None and preflight.runs(boot_id(), time.monotonic()),
        users=users(accounts),
        mail_server=mail_server(accounts, store.certificate),
        message=message,
        message_stays=message is not None and _domain(message) in domains,
    )


def _domain(told: trial_message.Told) -> str:
    return told.message.recipient.rpartition("@")[2]


def mail_server(accounts: Accounts, certificate: Path) -> MailServer:
    """Tell where mail apps come in.

    Args:
        certificate: the file with the mail server's.

    Raises:
        OSError: it cannot be read.
    """
    try:
        shown = fingerprint(certificate.read_text(encoding="ascii", errors="replace"))
    except (FileNotFoundError, CertificateError):
        shown = ""  # the status tells of it
    return MailServer(host=accounts.mail_host, fingerprint=shown)


def users(accounts: Accounts) -> tuple[User, ...]:
    """List who has a mailbox."""
    admins = owners(accounts.admin, accounts)
    return tuple(
        User(address=each.address, is_admin=each.address in admins, has_password=each.password_hash is not None)
        for each in accounts.users
    )
