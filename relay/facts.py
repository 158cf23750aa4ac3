"""What a notice to a sender needs (RFC 3464), beside the item: sealed under a key that is in memory only.

After a restart nobody reads it any more: then the item stays until home comes, and its sender hears nothing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

import pyrage

from model.control import QueuedItem
from model.envelope import Envelope

_END = ".notice"
_WORTH_TELLING = "pass"


@dataclass(frozen=True)
class Facts:
    """What may be told to a sender, and whom it is about.

    Args:
        recipients: addresses with their parameters of DSN: those whose failure the sender wants to hear of.
        parameters: of DSN, from MAIL.
        received: milliseconds since 1970.
    """

    sender: str
    utf8: bool
    recipients: tuple[tuple[str, Mapping[str, str | None]], ...]
    parameters: Mapping[str, str | None]
    message_id: str
    received: int

    @classmethod
    def of(cls, envelope: Envelope, message_id: str) -> Self | None:
        """Take them from an envelope; None when its sender must hear nothing.

        A notice goes to a sender whose domain has said by SPF that the client may send for it, so that nobody gets
        notices about mail that others sent in his name; and to no null sender (RFC 5321 §4.5.5).
        """
        told = envelope.spf.get("result") == _WORTH_TELLING and envelope.spf.get("identity") == "mailfrom"
        people = tuple((address, dict(one)) for address, one in envelope.recipients if _wants(one.get("NOTIFY")))
        if not envelope.sender or not told or not people:
            return None
        parameters = dict(envelope.parameters)
        return cls(envelope.sender, envelope.utf8, people, parameters, message_id, envelope.received)


def _wants(notify: str | None) -> bool:
    """Tell whether a failure is told (RFC 3461 §4.1)."""
    return notify is None or "FAILURE" in notify.upper().split(",")


class FactsFolder:
    """Keeps facts of items.

    Args:
        folder: of the items; what another process has left there is removed.

    Raises:
        OSError: the folder cannot be used.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = pyrage.x25519.Identity.generate()
        self._recipients = [self._key.to_public()]
        for path in list(folder.glob(f"*{_END}")):
            path.unlink()

    def keep(self, item: QueuedItem, envelope: Envelope, message_id: str) -> None:
        """Keep what a notice about an item needs, if there may be one; a disk that fails leaves the item without."""
        if facts := Facts.of(envelope, message_id):
            sealed = pyrage.encrypt(json.dumps(asdict(facts)).encode(), self._recipients)
            path = self._path(item.id)
            try:
                descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
                with os.fdopen(descriptor, "wb") as file:
                    file.write(sealed)
            except OSError:
                self.forget(item.id)

    def read(self, name: str) -> Facts | None:
        """Give the facts of an item by its id; None when there are none."""
        try:
            data = json.loads(pyrage.decrypt(self._path(name).read_bytes(), [self._key]))
        except (OSError, pyrage.DecryptError, ValueError):
            return None
        data["recipients"] = tuple((address, parameters) for address, parameters in data["recipients"])
        return Facts(**data)

    def forget(self, name: str) -> None:
        """Remove the facts of an item."""
        with suppress(OSError):
            self._path(name).unlink()

    def all(self) -> frozenset[str]:
        """Give the items that there are facts of."""
        names = [path.name for path in self._folder.iterdir()]
        return frozenset(name.removesuffix(_END) for name in names if name.endswith(_END))

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}{_END}"
