"""The queue: its store, the list of recipients, and the settings in force, which the agent writes and this reads."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyrage

from model.control import PROTOCOL, ControlError, QueueSettings, QueueStatus
from model.recipients import ListError, RecipientList
from relay.expiry import Expiry, Send
from relay.facts import FactsFolder
from relay.faults import Faults
from relay.place import Place
from relay.presence import Presence, Sign
from relay.reception import Policy, Terms
from relay.recipients import Recipients
from relay.sender_policy import Check, SenderPolicy
from relay.spool import Spool
from relay.watch import Watch, send_out, used

SETTINGS, RECIPIENTS = "settings.json", "recipients.json"
"""Files in the folder of settings, which the agent writes."""

_LARGEST = 50 * 2**20
"""Octets of a message, as long as no settings tell them."""

_ON_TOP = 64 * 1024
"""Octets that Postfix may put on top of a message, which it has found to be no larger than allowed: how it came."""

MakePlace = Callable[[Mapping[str, Any], str], Place]
"""Makes the place besides the disk from `QueueSettings.s3` and the queue's epoch; a ValueError tells what is wrong."""


class Queue:
    """All of it, without sockets.

    Args:
        config: folder with the settings.
        folder: for the items; see `Spool`.
        make_place: from settings of S3.
        now: seconds since 1970.
        software: id of the bundle that runs.
        check: asks for SPF's result; without it nobody's sender is told anything.
        send: sends notices and alarms.

    Raises:
        OSError: the folder cannot be used.
    """

    def __init__(
        self,
        config: Path,
        folder: Path,
        make_place: MakePlace,
        now: Callable[[], float],
        software: str = "",
        check: Check | None = None,
        send: Send = send_out,
    ) -> None:
        self._config, self._make_place, self._software = config, make_place, software
        self._place: Place | None = None
        self.now = now
        self.settings: QueueSettings | None = None
        """Those in force; None before home has pushed any."""
        self.recipients = Recipients()
        self.faults = Faults(now)
        self.presence = Presence(folder, now)
        self.spool = Spool(folder, (), 0)
        self._facts = FactsFolder(folder)
        self._expiry = Expiry(self.spool, self._facts, send, now)
        self.watch = Watch(self.spool, self.presence, self._expiry, folder, now, send)
        self._sender_policy = SenderPolicy(check) if check else None
        self.reload()

    def reload(self) -> None:
        """Read the settings again; what cannot be read changes nothing, and is a fault."""
        self._try(SETTINGS, self._read_settings)
        self._try(RECIPIENTS, self._read_recipients)

    def _try(self, name: str, read: Callable[[Path], None]) -> None:
        path = self._config / name
        try:
            if path.exists():
                read(path)
        except (OSError, ValueError, ControlError, ListError, pyrage.RecipientError) as error:
            self.faults.note(name, f"{name} cannot be used: {error}", "let home push its settings again")
            print(f"darkpipe-queue: what was in force stays so: {path}: {error}", file=sys.stderr, flush=True)
        else:
            self.faults.clear(name)

    def _read_settings(self, path: Path) -> None:
        found = QueueSettings.read(path.read_bytes())
        Policy(found.policy)
        if found == self.settings:
            return
        before, place = self.settings, self._place
        other = before is None or found.s3 != before.s3
        if other:
            place = self._make_place(found.s3, self.spool.epoch) if found.s3 else None
        self.spool.use(found.keys, found.budget, place)
        self.settings = found
        if other:
            if self._place:
                self._place.stop()
            if place:
                place.start(self.spool.held_elsewhere(place))
            self._place = place

    def _read_recipients(self, path: Path) -> None:
        self.recipients.replace(RecipientList.read(path.read_text(encoding="utf-8")))

    def stop(self) -> None:
        """End what runs beside it."""
        self.watch.stop()
        if self._sender_policy:
            self._sender_policy.stop()
        if self._place:
            self._place.stop()

    def terms(self) -> Terms:
        """Say on which terms messages are taken now; without settings they are asked to come later."""
        settings = self.settings
        if settings is None or not self.spool.ready:
            return Terms("relay", _LARGEST, self.recipients.judge, Policy.TEMPFAIL)
        return Terms(
            settings.name,
            settings.largest + _ON_TOP,
            self.recipients.judge,
            Policy(settings.policy),
            self._sender_policy,
            self._facts.keep,
            self.recipients.is_quick,
        )

    def status(self) -> QueueStatus:
        """Give what home is told."""
        count, octets = self.spool.usage()
        first = self.spool.items(most=1)
        found = used(self.spool) if self.settings else None
        if found:
            self.faults.note("budget", found, "let home take it, or raise the relay's budget in site.yaml")
        else:
            self.faults.clear("budget")
        return QueueStatus(
            protocol=PROTOCOL,
            software=self._software,
            epoch=self.spool.epoch,
            count=count,
            octets=octets,
            oldest=first[0].received if first else None,
            budget=self.spool.budget,
            drained=self.presence.last(Sign.DRAINED),
            recipients=self.recipients.version,
            settings=self.settings.version if self.settings else 0,
            overdue=self._expiry.overdue,
            faults=(*self.faults.all(), *(self._place.faults() if self._place else ())),
            bucket=self._place.status() if self._place else None,
        )
