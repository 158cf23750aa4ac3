"""A bucket in memory, and what its owner could do to it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace

import obstore
import pyrage
from obstore.store import MemoryStore

from model.s3 import Mode, S3Settings
from model.s3_objects import Objects, StoreError

PREFIX = "queues/"
SETTINGS = S3Settings(
    "https://s3.example",
    "bucket",
    "access",
    "secret",
    str(pyrage.x25519.Identity.generate()),
    Mode.OVERFLOW,
    prefix=PREFIX,
)
THROUGH = replace(SETTINGS, mode=Mode.WRITE_THROUGH)


class Bucket(Objects):
    """Real code over obstore's store in memory.

    Args:
        before: is called with each call's name and the object's, and raises StoreError to let it fail.
    """

    def __init__(self, before: Callable[[str, str], None] = lambda call, name: None) -> None:
        self.store = MemoryStore()
        super().__init__(self.store, PREFIX)
        self.before = before

    def put(self, name: str, octets: bytes) -> None:
        self.before("put", name)
        super().put(name, octets)

    def get(self, name: str, most: int) -> bytes | None:
        self.before("get", name)
        return super().get(name, most)

    def size(self, name: str) -> int | None:
        self.before("size", name)
        return super().size(name)

    def delete(self, names: Iterable[str]) -> None:
        for name in names:
            self.before("delete", name)
            super().delete([name])

    # ---- What the owner does

    def content(self) -> dict[str, bytes]:
        """Everything in the bucket, by the objects' names."""
        found = {}
        for name in [one["path"] for some in obstore.list(self.store) for one in some]:
            with suppress(FileNotFoundError):  # the relay has just removed it
                found[name] = bytes(obstore.get(self.store, name).bytes())
        return found

    def set_back(self, content: dict[str, bytes]) -> None:
        """Make everything as it was."""
        for name in self.content():
            obstore.delete(self.store, name)
        for name, octets in content.items():
            obstore.put(self.store, name, octets)


def fail(call: str, name: str) -> None:
    """Let every call fail."""
    raise StoreError(f"planted: {call} {name[-8:]}")
