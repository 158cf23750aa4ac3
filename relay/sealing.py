"""Sealing one message: octets of an envelope and a message in, age's ciphertext out to a file and to a place."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence

import pyrage

from model.envelope import Envelope, Reader
from relay.envelope import Item
from relay.place import Upload


class Sealing:
    """Seals one message.

    Args:
        message: its octets as they come in.
        recipients: any of them opens it.
    """

    def __init__(self, envelope: Envelope, message: Reader, recipients: Sequence[pyrage.x25519.Recipient]) -> None:
        self._item, self._received = Item(envelope, message), max(envelope.received, 0)
        self._recipients = recipients
        self.failure: Exception | None = None
        """What the message's reader has raised, which age would tell as text."""

    def read(self, size: int, /) -> bytes:
        """Give age the next octets to seal."""
        try:
            return self._item.read(size)
        except Exception as error:
            self.failure = error
            raise

    def write(self, descriptor: int, upload: Upload | None, *, on_disk: bool) -> tuple[int, str]:
        """Write the ciphertext; the file is not synced then, the upload is done.

        Args:
            descriptor: of a new file.
            upload: gets it, too.
            on_disk: whether the file gets it; else it stays empty.

        Returns:
            Octets of the ciphertext, and its SHA-256 in hexadecimal digits.

        Raises:
            OSError, PlaceError: it cannot be written.
            pyrage.EncryptError: anything else; see `failure`.
        """
        target = _Target(descriptor if on_disk else None, upload)
        try:
            pyrage.encrypt_io(self, target, list(self._recipients))
            target.drain()
        except pyrage.EncryptError:
            if target.failure:
                raise target.failure from None
            raise
        sha256 = target.digest.hexdigest()
        if upload:
            upload.finish(sha256, self._received)
        return target.size, sha256


class _Target:
    """Takes octets from age, counts them, and remembers what kept it from it.

    age writes its head in many small pieces: they are put together.
    """

    def __init__(self, descriptor: int | None, upload: Upload | None) -> None:
        self._descriptor, self._upload = descriptor, upload
        self._held: list[bytes] = []
        self._held_octets = 0
        self.size = 0
        self.digest = hashlib.sha256()
        self.failure: Exception | None = None

    def write(self, octets: bytes) -> int:
        self._held.append(octets)
        self._held_octets += len(octets)
        if self._held_octets >= _PIECE:
            self.drain()
        return len(octets)

    def drain(self) -> None:
        octets = self._held[0] if len(self._held) == 1 else b"".join(self._held)
        self._held, self._held_octets = [], 0
        try:
            self._put(octets)
        except Exception as error:
            self.failure = error
            raise

    def _put(self, octets: bytes) -> None:
        self.size += len(octets)
        self.digest.update(octets)
        if self._upload:
            self._upload.write(octets)
        if self._descriptor is not None:
            rest = memoryview(octets)
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]

    def flush(self) -> None:
        """Nothing to do: what is held goes out when age has ended."""


_PIECE = 32 * 1024
"""Octets from which on they are worth a call."""
