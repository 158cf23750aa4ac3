"""The relay's queue, as home sees it through the control plane."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from http import HTTPStatus
from typing import BinaryIO, Protocol, TypeVar

from home.control_client import ControlClient
from home.control_errors import Fenced, Garbled, Refused
from home.relay_answers import StrangeError, sound_page, sound_status
from model.control import Page, QueuedItem, QueueStatus

_M = TypeVar("_M")


class GoneError(Exception):
    """The relay has no such item any more, or what it has is not what it was; the text is the relay's."""


class NotNowError(Exception):
    """The relay has this item, or had it, and cannot give it; the text is the relay's."""


class RelayQueue(Protocol):
    """What the drain asks a relay for; each may raise `ControlFailure`, and be repeated."""

    def page(self, after: int) -> Page:
        """Give the items behind a sequence number."""

    def fetch(self, item: QueuedItem, into: BinaryIO) -> str:
        """Fetch an item's ciphertext.

        Returns:
            The sha256 of what came, in hexadecimal digits.

        Raises:
            GoneError, NotNowError.
            OSError: the file cannot be written.
        """

    def delete(self, item: str) -> None:
        """Have the relay forget an item; nothing happens when it has none.

        Raises:
            NotNowError.
        """

    def status(self) -> QueueStatus:
        """Ask how the queue is."""


class RemoteQueue:
    """A `RelayQueue` behind a client of the control plane.

    Args:
        client: to the queue's listener.
    """

    def __init__(self, client: ControlClient) -> None:
        self._client = client

    def page(self, after: int) -> Page:
        """Give the items behind a sequence number."""
        return _sound(sound_page, self._client.request("GET", f"/items?after={after}").message(Page))

    def fetch(self, item: QueuedItem, into: BinaryIO) -> str:
        """Fetch an item's ciphertext and give its sha256."""
        summed = Summed(into)
        try:
            self._client.download(f"/items/{item.id}", summed, item.size)
        except Refused as error:
            raise _of(error) from None
        except Garbled as error:
            raise NotNowError(error.found) from None
        return summed.digest.hexdigest()

    def delete(self, item: str) -> None:
        """Have the relay forget an item."""
        try:
            self._client.request("DELETE", f"/items/{item}")
        except Fenced:
            raise
        except Refused as error:
            if error.status != HTTPStatus.NOT_FOUND:
                raise NotNowError(error.found) from None

    def status(self) -> QueueStatus:
        """Ask how the queue is."""
        return _sound(sound_status, self._client.request("GET", "/status").message(QueueStatus))


def _sound(check: Callable[[_M], _M], found: _M) -> _M:
    try:
        return check(found)
    except StrangeError as error:
        raise Garbled(str(error)) from None


_GONE = frozenset({HTTPStatus.NOT_FOUND, HTTPStatus.BAD_GATEWAY})
"""The second one when it lies in a bucket, which does not give it back (relay/queue_api.py)."""


def _of(error: Refused) -> Exception:
    if isinstance(error, Fenced):
        return error
    return (GoneError if error.status in _GONE else NotNowError)(error.found)


class Summed:
    """A file, and the sha256 of what is written to it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.digest = hashlib.sha256()

    def write(self, octets: bytes, /) -> int:
        """Write some octets."""
        self.digest.update(octets)
        return self._file.write(octets)
