"""Quarantine: what the relay had taken and home's mail server refused, or what cannot be opened.

Nobody is told but the owner: the sender has had its 250, and a notice to it would reach whoever's address was forged.

Each item has two files in the folder: what was kept, a letter (`ID.letter`) or the ciphertext (`ID.age`), and `ID.json`
that tells of it. The second one makes it count; all is durable before the relay forgets the item.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from home.drain import Entry, Reply
from home.drain_letter import Letter
from stack.durable import sync_folder, write_atomically

FOLDER = Path("/data/drain/quarantine")

_TOLD = ".json"
_LOCK = ".lock"
_ID = re.compile(r"[0-9a-f]{32}")


class Kind(StrEnum):
    """Why something is in quarantine."""

    REFUSED = "refused"
    """The mail server has refused it."""

    SEALED = "sealed"
    """No key of home opens it, or what is in it is no letter."""


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Refused(_Strict):
    """A recipient who has not got it.

    Args:
        number: place in the letter's envelope.
        reply: what the mail server has said.
    """

    number: int
    address: str
    reply: str


class Kept(_Strict):
    """What lies in quarantine.

    Args:
        id: the item's.
        received: when the relay took it, milliseconds since 1970.
        kept: when it was put here, likewise.
        size: octets of the message, or of the ciphertext.
        sender: of the envelope; empty for the null sender, and for what cannot be opened.
        client: IP address of the server that had sent it; empty for what cannot be opened.
        reason: why it cannot be opened; empty for what was refused.
    """

    format: int = 1
    id: str
    kind: Kind
    received: int
    kept: int
    size: int
    sender: str = ""
    client: str = ""
    recipients: tuple[Refused, ...] = ()
    reason: str = ""


class QuarantineError(Exception):
    """What lies in quarantine cannot be used; the text says what was found and what to do."""


@dataclass(frozen=True)
class Quarantine:
    """The folder.

    Args:
        folder: it is there.
    """

    folder: Path = FOLDER

    def content(self, kept: Kept) -> Path:
        """Give the file with what was kept."""
        return self.folder / f"{kept.id}{'.letter' if kept.kind is Kind.REFUSED else '.age'}"

    def keep_refused(self, entry: Entry, letter: Letter, replies: Mapping[int, Reply], now: int) -> None:
        """Keep a letter for those who were refused; on return it is durable, and who was kept before stays.

        Args:
            replies: by the recipients' places in the envelope.
            now: milliseconds since 1970.
        """
        with self._locked():
            before = self._find(entry.item.id)
            people = {one.number: one for one in before.recipients} if before else {}
            for number, reply in replies.items():
                address = entry.people[number].address
                people[number] = Refused(number=number, address=address, reply=f"{reply.code} {reply.text}".strip())
            kept = Kept(
                id=entry.item.id,
                kind=Kind.REFUSED,
                received=letter.envelope.received,
                kept=now,
                size=letter.size,
                sender=letter.envelope.sender,
                client=str(letter.client),
                recipients=tuple(people[number] for number in sorted(people)),
            )
            self._put(kept, letter.path)

    def keep_sealed(self, entry: Entry, ciphertext: Path, reason: str, now: int) -> None:
        """Keep an item that cannot be opened; on return it is durable."""
        item = entry.item
        size = ciphertext.stat().st_size
        kept = Kept(id=item.id, kind=Kind.SEALED, received=item.received, kept=now, size=size, reason=reason)
        with self._locked():
            self._put(kept, ciphertext)

    def all(self) -> tuple[Sequence[Kept], Sequence[str]]:
        """Give what is here, the oldest first, and the names of files that cannot be read.

        Raises:
            OSError: the folder cannot be read.
        """
        try:
            # No glob(), to which a folder that cannot be read is an empty one.
            paths = sorted(self.folder.iterdir())
        except FileNotFoundError:
            return (), ()  # the drain has never had a relay
        found, broken = [], []
        for path in paths:
            if path.suffix == _TOLD and _ID.fullmatch(path.stem):
                try:
                    found.append(self._read(path))
                except QuarantineError:
                    broken.append(path.name)
        return sorted(found, key=lambda one: (one.received, one.id)), broken

    def find(self, start: str) -> Kept:
        """Find an item by the first digits of its id.

        Raises:
            QuarantineError: there is none, or more than one.
        """
        named = [one for one in self.all()[0] if one.id.startswith(start.lower())] if start else []
        if len(named) != 1:
            found = f"{len(named)} items whose id begins so" if named else "no such item in quarantine"
            raise QuarantineError(f"{found}; `darkpipe quarantine list` shows their ids")
        return named[0]

    def forget(self, item: str, numbers: Sequence[int]) -> None:
        """Forget some recipients of a letter, who have it now; with the last one the letter goes."""
        with self._locked():
            before = self._find(item)
            if before is None:
                return
            left = tuple(one for one in before.recipients if one.number not in numbers)
            if left:
                self._tell(before.model_copy(update={"recipients": left}))
            else:
                self._remove(before)

    def delete(self, kept: Kept) -> None:
        """Remove it; on return it stays removed."""
        with self._locked():
            self._remove(kept)

    def tidy(self) -> None:
        """Remove what a power cut has left of something that did not come to count."""
        with self._locked():
            for path in self.folder.iterdir():
                stale = path.suffix in {".letter", ".age"} and not path.with_suffix(_TOLD).exists()
                if stale or path.name.endswith(".new"):
                    path.unlink()

    def _put(self, kept: Kept, content: Path) -> None:
        path = self.content(kept)
        partial = path.with_name(f".{path.name}.new")
        partial.unlink(missing_ok=True)
        partial.hardlink_to(content)
        descriptor = os.open(partial, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        partial.replace(path)
        # rename(2) does nothing when both are names of one file.
        partial.unlink(missing_ok=True)
        sync_folder(self.folder)
        self._tell(kept)

    def _tell(self, kept: Kept) -> None:
        found = self.folder.stat()
        owner = (found.st_uid, found.st_gid) if os.geteuid() == 0 else None
        text = kept.model_dump_json(indent=1)
        write_atomically(self.folder / f"{kept.id}{_TOLD}", f"{text}\n".encode(), 0o600, owner)

    def _remove(self, kept: Kept) -> None:
        (self.folder / f"{kept.id}{_TOLD}").unlink(missing_ok=True)
        sync_folder(self.folder)
        self.content(kept).unlink(missing_ok=True)

    def _find(self, item: str) -> Kept | None:
        path = self.folder / f"{item}{_TOLD}"
        return self._read(path) if path.exists() else None

    def _read(self, path: Path) -> Kept:
        try:
            kept = Kept.model_validate_json(path.read_bytes())
        except (ValidationError, OSError):
            raise QuarantineError(f"{path} cannot be read: it is damaged, or of another version") from None
        if kept.id != path.stem:
            raise QuarantineError(f"{path} tells of another item")
        return kept

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep the drain and whoever types a command from each other."""
        descriptor = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)
