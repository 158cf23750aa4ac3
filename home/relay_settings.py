"""What home tells its relay about the keeping of mail: from the Site, the accounts and home's keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from model.accounts import Accounts
from model.control import QueueSettings
from model.duration import duration_seconds
from model.quota import quota_bytes
from model.site import Alarm, Relay
from stack.addresses import alias_domains


def queue_settings(
    relay: Relay,
    accounts: Accounts,
    keys: Sequence[str],
    before: QueueSettings | None = None,
    s3: Mapping[str, Any] | None = None,
) -> QueueSettings:
    """Give the settings for a relay.

    Args:
        keys: home's age recipients, `age1…`.
        before: the latest settings that were made for it, if there are any.
        s3: where items go that the relay's disk has no room for; see relay/s3.py.

    Returns:
        `before` when nothing has changed, else others with the next version.
    """
    wanted = QueueSettings(
        version=before.version if before else 1,
        name=accounts.mx_host,
        domains=(*(domain.name for domain in accounts.domains), *alias_domains(accounts)),
        policy=str(relay.offline),
        keys=tuple(keys),
        budget=quota_bytes(relay.budget),
        expiry=duration_seconds(relay.expiry),
        alarm=_alarm(relay.alarm),
        away=duration_seconds((relay.alarm or Alarm()).after),
        s3=s3 or {},
    )
    if before is None or wanted == before:
        return wanted
    return replace(wanted, version=before.version + 1)


def _alarm(alarm: Alarm | None) -> Mapping[str, Any]:
    told = {"webhook": alarm.webhook, "mail": alarm.mail} if alarm else {}
    return {name: value for name, value in told.items() if value is not None}
