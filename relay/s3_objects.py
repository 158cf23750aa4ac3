"""Objects in a bucket, with no trust in the store: what was put is read back, and nothing is longer than it may be."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import islice

import obstore
from obstore.store import ObjectStore

from model.s3 import FAILURES, told
from relay.place import PlaceError

_AT_ONCE = 4
"""Objects on their way at once: each is in memory twice."""

_STEP = 64 * 1024
_MOST_LISTED = 10**6


class Objects:
    """The objects of a bucket.

    Args:
        store: of obstore, which asks it no longer than its settings say.
        prefix: of the names of all objects; empty, or with a `/` at its end.
    """

    def __init__(self, store: ObjectStore, prefix: str) -> None:
        self._store, self._prefix = store, prefix
        self._turn = threading.BoundedSemaphore(_AT_ONCE)

    def put(self, name: str, octets: bytes) -> None:
        """Return when the store has an object, and gives the same octets back.

        Raises:
            PlaceError: it does not.
        """
        with self._turn:
            try:
                obstore.put(self._store, self._prefix + name, octets, use_multipart=False)
                found = self._read(name, len(octets))
            except FileNotFoundError:
                raise PlaceError("the S3 store has said that it keeps an object, and then that it has none") from None
            except FAILURES as error:
                raise PlaceError(f"the S3 store has failed: {told(error)}") from None
        if found != octets:
            raise PlaceError("the S3 store gives back other octets than it was given")

    def get(self, name: str, most: int) -> bytes | None:
        """Give an object; None when the store says that there is none.

        Args:
            most: octets; what is longer is given one octet too long.

        Raises:
            PlaceError: the store fails.
        """
        with self._turn:
            try:
                return self._read(name, most)
            except FileNotFoundError:
                return None
            except FAILURES as error:
                raise PlaceError(f"the S3 store has failed: {told(error)}") from None

    def _read(self, name: str, most: int) -> bytes:
        found = bytearray()
        for piece in obstore.get(self._store, self._prefix + name).stream(min_chunk_size=_STEP):
            found += memoryview(piece)[: most + 1 - len(found)]
            if len(found) > most:
                break
        return bytes(found)

    def names(self, folder: str) -> Iterator[str]:
        """Give the names of all objects of a folder, without the folder.

        Raises:
            PlaceError: the store fails.
        """
        place = f"{self._prefix}{folder}/"
        try:
            listed = (one["path"] for several in obstore.list(self._store, prefix=place) for one in several)
            for path in islice(listed, _MOST_LISTED):
                if path.startswith(place):
                    yield path.removeprefix(place)
        except FAILURES as error:
            raise PlaceError(f"the S3 store has failed: {told(error)}") from None

    def delete(self, names: Iterable[str]) -> None:
        """Delete objects; that there is none is fine.

        Raises:
            PlaceError: the store fails; some may be gone.
        """
        for name in names:
            try:
                with suppress(FileNotFoundError):
                    obstore.delete(self._store, self._prefix + name)
            except FAILURES as error:
                raise PlaceError(f"the S3 store has failed: {told(error)}") from None
