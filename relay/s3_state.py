"""What the relay's disk knows of its folder in a bucket: its name, and the version of the latest head written there.

A disk that a provider has set back to an older state, such as a snapshot of the running relay, knows an older version
than the folder's head has. Such a relay leaves the folder alone, since what lies there may be in no index any more, and
takes another. So does one whose home has lost the secret by which all names there are made, and has made another: it
would take for waste what is its own.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import threading
from collections.abc import Collection
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Self

from model.bucket import NAME
from model.s3 import S3Settings
from relay.files import replace as replace_file

_VERSIONS = 2**32
"""Heads that the relay writes between two starts, at most."""

_WRITING = threading.Lock()
"""Held by whoever changes a file: after a change of settings, two places may have the same one for a moment."""


@dataclass(frozen=True)
class FolderState:
    """What is kept on the disk.

    Args:
        epoch: of the queue that the folder belongs to.
        folder: 32 hexadecimal digits.
        starts: of the relay with this folder, this one among them.
        left: folders that were left alone, for home to look at.
        version: the highest that a head in the folder may have; kept before the head is written.
        seal: digest of the secret by which names in the folder are made; empty in files of before.
    """

    epoch: str
    folder: str
    starts: int
    left: tuple[str, ...] = ()
    version: int = 0
    seal: str = ""

    @classmethod
    def begin(cls, path: Path, epoch: str, secret: str) -> Self:
        """Read it for another start, and keep on the disk that there was one.

        Args:
            secret: `S3Settings.seal`.

        Raises:
            OSError: the disk fails.
        """
        with _WRITING:
            before, seal = cls._read(path), hashlib.sha256(secret.encode()).hexdigest()
            if before is None or not NAME.fullmatch(before.folder):
                # A folder whose name is lost is found by home, which looks at all of them.
                before = cls._new(epoch)
            elif before.epoch != epoch or before.seal not in {"", seal}:
                before = replace(cls._new(epoch), left=(*before.left, before.folder))
            state = replace(before, starts=before.starts + 1, seal=seal)
            state.write(path)
        return state

    @classmethod
    def _read(cls, path: Path) -> Self | None:
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            starts = int(data["starts"])
            # Files of before had only the number of starts.
            version = int(data.get("version", (starts + 1) * _VERSIONS - 1))
            seal = str(data.get("seal", ""))
            return cls(str(data["epoch"]), str(data["folder"]), starts, tuple(data["left"]), version, seal)
        except (FileNotFoundError, ValueError, TypeError, LookupError, AttributeError):
            return None

    def note(self, path: Path, version: int) -> None:
        """Keep on the disk that a head of this version may be in the folder from now on.

        Raises:
            OSError: the disk fails; no such head may be written.
        """
        with _WRITING:
            found = self._read(path)
            if found and found.folder == self.folder:
                replace(found, version=max(found.version, version)).write(path)

    @classmethod
    def _new(cls, epoch: str) -> Self:
        return cls(epoch, secrets.token_hex(16), 0)

    def another(self, path: Path) -> FolderState:
        """Leave the folder for a new one, and keep that on the disk.

        Raises:
            OSError: the disk fails.
        """
        state = FolderState(self.epoch, secrets.token_hex(16), 1, (*self.left, self.folder), seal=self.seal)
        with _WRITING:
            state.write(path)
        return state

    def without(self, path: Path, emptied: Collection[str]) -> FolderState:
        """Forget folders that were left and that home has emptied, and keep that on the disk.

        Raises:
            OSError: the disk fails.
        """
        left = tuple(folder for folder in self.left if folder not in emptied)
        with _WRITING:
            found = self._read(path)
            if found and found.folder == self.folder:
                replace(found, left=left).write(path)
        return replace(self, left=left)

    def write(self, path: Path) -> None:
        """Keep it: the old or the new one is there, whenever the power fails.

        Raises:
            OSError: the disk fails.
        """
        replace_file(path, json.dumps(asdict(self)).encode())

    @property
    def first_version(self) -> int:
        """The first version of a head that this start may write: higher than all of those before."""
        return self.starts * _VERSIONS

    def is_older_than(self, path: Path, version: int) -> bool:
        """Tell whether the disk knows nothing of a head of this version, which was read from the bucket just now."""
        with _WRITING:
            found = self._read(path)
        return found is None or found.folder != self.folder or version > found.version


def state_path(folder: Path, settings: S3Settings) -> Path:
    """Give the file for a bucket: each that was ever in use has its own, so that going back finds what lies there."""
    named = "\0".join((settings.endpoint, settings.bucket, settings.prefix)).encode()
    return folder / f"bucket-{hashlib.sha256(named).hexdigest()[:16]}.json"
