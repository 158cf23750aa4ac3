"""Objects in a bucket, with no trust in the store: what was put is read back, and nothing is longer than it may be."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import timedelta
from itertools import islice

import obstore
from obstore.exceptions import BaseError
from obstore.store import ObjectStore, S3Store

from model.s3 import S3Settings, is_local

_FAILURES = (BaseError, OSError, ValueError)
"""What obstore raises when a store fails; FileNotFoundError, an OSError, says that there is no such object."""

_LONGEST = 300
_RETRIES = 1


class StoreError(Exception):
    """A store fails, or does not give back what it was given; the text says which."""


_AT_ONCE = 4
"""Objects on their way at once: each is in memory twice."""

_STEP = 64 * 1024
_MOST_LISTED = 10**6


def open_store(settings: S3Settings, patience: float = 20.0) -> S3Store:
    """Give the store of some settings; nobody is asked yet.

    Args:
        patience: seconds for one request, and as many again for a second try.
    """
    seconds = timedelta(seconds=patience)
    return S3Store(
        settings.bucket,
        endpoint=settings.endpoint,
        region=settings.region,
        access_key_id=settings.access_key,
        secret_access_key=settings.secret_key,
        # Not every store has DeleteObjects, or takes it without the MD5 that obstore does not send.
        disable_bulk_delete=True,
        client_options={
            "allow_http": is_local(settings.endpoint),
            "timeout": seconds,
            "connect_timeout": min(seconds, timedelta(seconds=5)),
        },
        retry_config={"max_retries": _RETRIES, "retry_timeout": seconds},
    )


def _told(error: Exception) -> str:
    """Give what is wrong with a store in a line; obstore's own text goes on with an inside view."""
    return " ".join(str(error).partition("\n\nDebug source")[0].split())[:_LONGEST]


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
            StoreError: it does not.
        """
        with self._turn:
            try:
                obstore.put(self._store, self._prefix + name, octets, use_multipart=False)
                same = self._is(name, octets)
            except FileNotFoundError:
                raise StoreError("the S3 store has said that it keeps an object, and then that it has none") from None
            except _FAILURES as error:
                raise StoreError(f"the S3 store has failed: {_told(error)}") from None
        if not same:
            raise StoreError("the S3 store gives back other octets than it was given")

    def get(self, name: str, most: int) -> bytes | None:
        """Give an object; None when the store says that there is none.

        Args:
            most: octets; what is longer is given one octet too long.

        Raises:
            StoreError: the store fails.
        """
        with self._turn:
            try:
                return self._read(name, most)
            except FileNotFoundError:
                return None
            except _FAILURES as error:
                raise StoreError(f"the S3 store has failed: {_told(error)}") from None

    def size(self, name: str) -> int | None:
        """Give the octets of an object, as the store says; None when it says that there is none.

        Raises:
            StoreError: the store fails.
        """
        try:
            return int(obstore.head(self._store, self._prefix + name)["size"])
        except FileNotFoundError:
            return None
        except _FAILURES as error:
            raise StoreError(f"the S3 store has failed: {_told(error)}") from None

    def _is(self, name: str, octets: bytes) -> bool:
        """Tell whether an object is what it should be; a piece of it at a time is in memory."""
        expected = memoryview(octets)
        for piece in self._stream(name):
            found = memoryview(piece)
            if found != expected[: len(found)]:
                return False
            expected = expected[len(found) :]
        return not expected

    def _stream(self, name: str) -> Iterator[bytes]:
        yield from obstore.get(self._store, self._prefix + name).stream(min_chunk_size=_STEP)

    def _read(self, name: str, most: int) -> bytes:
        found = bytearray()
        for piece in self._stream(name):
            found += memoryview(piece)[: most + 1 - len(found)]
            if len(found) > most:
                break
        return bytes(found)

    def names(self, folder: str) -> Iterator[str]:
        """Give the names of all objects of a folder, without the folder.

        Raises:
            StoreError: the store fails.
        """
        place = f"{self._prefix}{folder}/"
        try:
            listed = (one["path"] for several in obstore.list(self._store, prefix=place) for one in several)
            for path in islice(listed, _MOST_LISTED):
                if path.startswith(place):
                    yield path.removeprefix(place)
        except _FAILURES as error:
            raise StoreError(f"the S3 store has failed: {_told(error)}") from None

    def folders(self) -> list[str]:
        """Give the names of all folders, without what is before and behind them.

        Raises:
            StoreError: the store fails.
        """
        try:
            listed = obstore.list_with_delimiter(self._store, prefix=self._prefix)["common_prefixes"]
        except _FAILURES as error:
            raise StoreError(f"the S3 store has failed: {_told(error)}") from None
        return sorted(name.rstrip("/").rpartition("/")[2] for name in listed)

    def delete(self, names: Iterable[str]) -> None:
        """Delete objects; that there is none is fine.

        Raises:
            StoreError: the store fails; some may be gone.
        """
        for name in names:
            try:
                with suppress(FileNotFoundError):
                    obstore.delete(self._store, self._prefix + name)
            except _FAILURES as error:
                raise StoreError(f"the S3 store has failed: {_told(error)}") from None
