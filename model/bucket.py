"""What lies in a bucket of S3, so that its owner can read nothing there and change nothing unseen.

An item is cut into pieces, each an object. Pages list items, and the head lists pages: objects that only home and relay
can read and make. The head counts its versions and says when it was written; whoever knows a later version, or a later
time at which the relay was well, sees that an older one was put in its place.

```
PREFIX FOLDER/head      the head
PREFIX FOLDER/NAME      a piece or a page; FOLDER and NAME are 32 hexadecimal digits, at random for the bucket's owner
```
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import astuple, dataclass
from typing import Any, Self

import pyrage

from model.control import LARGEST_ITEM, LATEST

PIECE = 256 * 1024
"""Octets of an item that are one object: what the relay holds in memory of each message on its way."""

PAGE = 256
"""Items that one page lists at most."""

HEAD = "head"

LARGEST_HEAD = 8 * 2**20
LARGEST_PAGE = 128 * 1024
"""Octets: more than head and page can have; who gets more is not answered by us."""

NAME = re.compile(r"[0-9a-f]{32}")

_SHA256 = re.compile(r"[0-9a-f]{64}")
_MAC_OCTETS = 32


class BucketError(Exception):
    """An object was not made by home's relay, or for another place; the text says which."""


@dataclass(frozen=True)
class Entry:
    """An item in a bucket.

    Args:
        id: of the item: 32 hexadecimal digits.
        size: octets of the ciphertext.
        received: when the message came, milliseconds since 1970.
        sha256: of the ciphertext, in hexadecimal digits.
    """

    id: str
    size: int
    received: int
    sha256: str

    @classmethod
    def of(cls, data: Any) -> Self:
        """Take one from what a JSON reader gives.

        Raises:
            ValueError: it is none.
        """
        name, size, received, sha256 = data
        entry = cls(str(name), int(size), int(received), str(sha256))
        sound = 0 <= entry.size <= LARGEST_ITEM and 0 <= entry.received <= LATEST
        if not NAME.fullmatch(entry.id) or not _SHA256.fullmatch(entry.sha256) or not sound:
            raise ValueError("no entry of an item")
        return entry

    @property
    def pieces(self) -> int:
        """How many objects it is; one at least."""
        return max(1, -(-self.size // PIECE))

    def piece_size(self, number: int) -> int:
        """Give the octets of a piece."""
        return min(PIECE, self.size - number * PIECE)


@dataclass(frozen=True)
class PageName:
    """A page, as the head lists it.

    Args:
        name: of the object.
        sha256: of the object, in hexadecimal digits.
    """

    name: str
    sha256: str


@dataclass(frozen=True)
class Head:
    """What counts in a folder of a bucket.

    Args:
        epoch: of the queue.
        version: counts up with each head of the folder, over all starts of the relay.
        written: milliseconds since 1970.
        count: of all items.
        octets: of their ciphertexts.
        pages: in the order of arrival.
    """

    epoch: str
    version: int
    written: int
    count: int
    octets: int
    pages: tuple[PageName, ...]


class Seal:
    """The secret that home and relay share, for one folder.

    Args:
        secret: `AGE-SECRET-KEY-1…`.

    Raises:
        ValueError: it is none. The text has nothing of it.
    """

    def __init__(self, secret: str, folder: str) -> None:
        try:
            self._identity = pyrage.x25519.Identity.from_str(secret)
        except pyrage.IdentityError:
            raise ValueError("the secret of the bucket is no age identity") from None
        self._folder = folder
        self._key = hashlib.sha256(b"DarkPipe's bucket\0" + secret.encode()).digest()

    def piece_name(self, item: str, number: int) -> str:
        """Give the name of the object with a piece of an item: to the owner, one at random."""
        return self._mac(b"piece", f"{item} {number}".encode()).hex()[:32]

    def piece_names(self, entry: Entry) -> Iterator[str]:
        """Give the names of all pieces, in their order."""
        return (self.piece_name(entry.id, number) for number in range(entry.pieces))

    def page(self, entries: Iterable[Entry]) -> bytes:
        """Write a page."""
        return self._close(b"page", [astuple(entry) for entry in entries])

    def read_page(self, octets: bytes, sha256: str) -> tuple[Entry, ...]:
        """Read a page of which the head has said the SHA-256.

        Raises:
            BucketError: it is another one.
        """
        if hashlib.sha256(octets).hexdigest() != sha256:
            raise BucketError("a list of items that is not the one that the relay has last written")
        data = self._open(b"page", octets)
        try:
            return tuple(Entry.of(one) for one in data)
        except (TypeError, ValueError):
            raise BucketError("a list of items in a format that this version does not know") from None

    def head(self, head: Head) -> bytes:
        """Write a head."""
        return self._close(b"head", astuple(head))

    def read_head(self, octets: bytes) -> Head:
        """Read a head.

        Raises:
            BucketError: nobody has written it who knows the secret, or it is from another folder.
        """
        try:
            epoch, version, written, count, size, pages = self._open(b"head", octets)
            head = Head(
                str(epoch), int(version), int(written), int(count), int(size), tuple(PageName(*one) for one in pages)
            )
            if not 0 <= head.written <= LATEST or not NAME.fullmatch(head.epoch):
                raise ValueError("no head of a folder")
            return head
        except (TypeError, ValueError, OverflowError):
            raise BucketError("a head in a format that this version does not know") from None

    def _mac(self, kind: bytes, octets: bytes) -> bytes:
        return hmac.digest(self._key, kind + b"\0" + self._folder.encode() + b"\0" + octets, "sha256")

    def _close(self, kind: bytes, data: Any) -> bytes:
        text = json.dumps(data, separators=(",", ":")).encode()
        sealed = pyrage.encrypt(text, [self._identity.to_public()])
        return self._mac(kind, sealed) + sealed

    def _open(self, kind: bytes, octets: bytes) -> Any:
        mac, sealed = octets[:_MAC_OCTETS], octets[_MAC_OCTETS:]
        if not hmac.compare_digest(mac, self._mac(kind, sealed)):
            raise BucketError(f"a {kind.decode()} that the relay has not written")
        try:
            return json.loads(pyrage.decrypt(sealed, [self._identity]))
        except (pyrage.DecryptError, ValueError):
            raise BucketError(f"a {kind.decode()} in a format that this version does not know") from None
