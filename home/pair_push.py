"""Lets the relay have what it must know: how mail is kept, and for whom it takes mail.

Both are made anew when the accounts or the Site change, each time with a version that the relay has not had.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from uuid import UUID

from home import unlock_keys
from home.control_client import ControlClient
from home.queue_keys import recipients as queue_keys
from home.relay_settings import queue_settings
from home.s3_settings import s3_settings, told
from model.accounts import Accounts
from model.control import ControlError, QueueSettings
from model.pairing import AgentState
from model.recipients import DomainRule, ListError, RecipientList
from model.site import Relay
from model.unlock import PATH as UNLOCK
from stack.addresses import alias_domains, aliases
from stack.durable import write_atomically

SETTINGS, RECIPIENTS = "settings.json", "recipients.json"
_SEPARATOR = "+"
"""recipient_delimiter of our Postfix."""


def rules(accounts: Accounts) -> Mapping[str, DomainRule]:
    """Give what holds for all addresses of each domain."""
    catch_alls = {name.removeprefix("@") for name in aliases(accounts) if name.startswith("@")}
    names = [*(domain.name for domain in accounts.domains), *alias_domains(accounts)]
    return {name: DomainRule(name in catch_alls, _SEPARATOR) for name in names}


def addresses(accounts: Accounts) -> Sequence[str]:
    """Give all addresses that mail is taken for, sorted."""
    named = {name for name in aliases(accounts) if not name.startswith("@")}
    return sorted(named | {user.address for user in accounts.users})


def wanted_settings(folder: Path, keys: Path, relay: Relay, accounts: Accounts, least: int) -> QueueSettings:
    """Give the relay's settings; a change of them has another version, which is kept.

    Args:
        least: version that the relay has; a home that was restored from a backup counts on from there.

    Raises:
        S3KeyError, QueueKeyError: a key is missing.
        OSError: the disk has failed.
    """
    path = folder / SETTINGS
    try:
        before = QueueSettings.read(path.read_bytes())
    except (FileNotFoundError, ControlError):
        before = None
    s3 = told(s3_settings(relay.s3, folder)) if relay.s3 else None
    wanted = queue_settings(relay, accounts, queue_keys(keys), before, s3)
    # Another home may have counted as far, with other settings: the lost one, when this one was restored.
    if wanted.version < least or (wanted.version == least and wanted != before):
        wanted = replace(wanted, version=least + 1)
    if wanted != before:
        write_atomically(path, wanted.to_json(), 0o600)
    return wanted


def wanted_recipients(folder: Path, accounts: Accounts, least: int) -> RecipientList:
    """Give the list of recipients; another one, with another version, only when the accounts have changed.

    Args:
        least: version that the relay has.

    Raises:
        OSError: the disk has failed.
    """
    path, mark = folder / RECIPIENTS, folder / f"{RECIPIENTS}.of"
    plain = json.dumps([addresses(accounts), {name: vars(rule) for name, rule in rules(accounts).items()}])
    digest = hashlib.sha256(plain.encode()).hexdigest()
    try:
        before = RecipientList.read(path.read_text(encoding="ascii"))
        # The mark is written last: after a power cut between the two, the list is made once more.
        if mark.read_text(encoding="ascii") == f"{digest} {before.version}" and before.version >= least:
            return before
        version = max(before.version, least) + 1
    except (FileNotFoundError, ListError, UnicodeDecodeError):
        version = least + 1
    made = RecipientList.make(version, rules(accounts), addresses(accounts))
    write_atomically(path, made.text().encode("ascii"), 0o600)
    write_atomically(mark, f"{digest} {version}".encode("ascii"), 0o600)
    return made


def begin_anew(folder: Path) -> None:
    """Forget how far home has counted: another relay has neither list nor settings, and the one before may have lied.

    Raises:
        OSError: the disk has failed.
    """
    for name in (SETTINGS, RECIPIENTS, f"{RECIPIENTS}.of"):
        (folder / name).unlink(missing_ok=True)


def push_unlock(client: ControlClient, folder: Path, known: str, disk: UUID | None) -> str:
    """Let the relay have the keys by which it helps to unlock the disk, or take them away.

    Args:
        known: what the relay has said of those that it has.
        disk: home's. Keys for another one came with a backup, and would help whoever has stolen that disk.

    Returns:
        What it has at the end.

    Raises:
        BootStageError: the file is damaged.
        ControlFailure: the relay cannot be asked, or does not take them.
    """
    keys = unlock_keys.read(folder)
    wanted = keys.for_relay() if keys and keys.disk == disk else None
    if known == (wanted.digest if wanted else ""):
        return known
    answer = client.send("PUT", UNLOCK, wanted) if wanted else client.request("DELETE", UNLOCK)
    return answer.message(AgentState).unlock


def push(client: ControlClient, folder: Path, keys: Path, relay: Relay, accounts: Accounts) -> AgentState:
    """Let the relay have both, as far as it has not.

    Args:
        folder: home's folder for pairing.
        keys: folder with home's age identities.

    Returns:
        What the relay says at the end.

    Raises:
        ControlFailure: it cannot be asked, or does not take them.
        S3KeyError, QueueKeyError: a key is missing.
        OSError: the disk has failed.
    """
    state = client.request("GET", "/state").message(AgentState)
    # Recipients first: a relay that has settings takes mail.
    recipients = wanted_recipients(folder, accounts, state.recipients)
    if state.recipients != recipients.version:
        state = client.request("PUT", "/recipients", recipients.text().encode()).message(AgentState)
    settings = wanted_settings(folder, keys, relay, accounts, state.settings)
    if state.settings != settings.version:
        state = client.send("PUT", "/settings", settings).message(AgentState)
    return state
