"""A relay's queue and home's drain in one process, for the tests: the queue is the real one behind its real API."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from pyrage import x25519

from home.drain_errands import Errands
from home.drain_journal import Journal
from home.drain_run import Drain
from home.hand_over import hand_over
from home.relay_queue import GoneError, NotNowError
from model.control import Page, QueuedItem, QueueSettings, QueueStatus
from model.envelope import Envelope
from relay.control import Request, Response
from relay.place import Place
from relay.queue import SETTINGS, Queue
from relay.queue_api import QueueApi
from tests.mail_sink import Sink

_T = TypeVar("_T")

HOME = x25519.Identity.generate()
RECEIVED = 1_795_478_400_000


class _Nothing:
    length = 0

    def read(self, _size: int, /) -> bytes:
        return b""


def _no_place(_settings: object, _relay: str) -> Place:
    raise ValueError("none here")


def envelope(*recipients: str, **changes: Any) -> Envelope:
    """Make an envelope."""
    people: tuple[tuple[str, Mapping[str, str | None]], ...] = tuple(
        (address, {}) for address in recipients or ("alice@example.com",)
    )
    client = {"ADDR": "192.0.2.25", "PORT": "4242", "HELO": "mail.example.net"}
    fields: dict[str, Any] = {
        "sender": "bob@example.net",
        "recipients": people,
        "utf8": False,
        "parameters": {},
        "client": client,
        "received": RECEIVED,
    }
    return Envelope(**{**fields, **changes})


class LocalRelay:
    """A `RelayQueue` that is here.

    Args:
        folder: for its disk.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "queue").mkdir(parents=True, exist_ok=True)
        key = str(HOME.to_public())
        settings = QueueSettings(1, "mx.example.com", ("example.com",), "queue", (key,), 10**9)
        (folder / SETTINGS).write_bytes(settings.to_json())
        self.asked: list[tuple[str, str]] = []
        self.lost: set[str] = set()
        """Ids of what it lists, and does not have."""
        self.start()

    def start(self) -> None:
        """Start it, or start it anew."""
        self.queue = Queue(self.folder, self.folder / "queue", _no_place, lambda: RECEIVED / 1000)
        self._api = QueueApi(self.queue.spool, self.queue.presence, self.queue.status)

    def keep(self, message: bytes = b"Subject: hello\r\n\r\nhi\r\n", found: Envelope | None = None) -> QueuedItem:
        """Take a message."""
        return self.queue.spool.store(found or envelope(), BytesIO(message))

    def forge(self, ciphertext: bytes) -> QueuedItem:
        """Put something into the place of the latest message's ciphertext, and let the index tell of that."""
        item = self.queue.spool.items()[-1]
        content = self.queue.spool.open(item.id)
        assert content.file
        name = content.file.name.replace(item.sha256, hashlib.sha256(ciphertext).hexdigest())
        content.file.unlink()
        (content.file.parent / name.replace(f"-{item.size}-", f"-{len(ciphertext)}-")).write_bytes(ciphertext)
        self.start()
        return self.queue.spool.items()[-1]

    def page(self, after: int) -> Page:
        """See `RelayQueue`."""
        answer = self._ask("GET", "/items", {"after": str(after)})
        assert isinstance(answer.body, bytes)
        return Page.read(answer.body)

    def fetch(self, item: QueuedItem, into: BinaryIO) -> str:
        """See `RelayQueue`."""
        answer = self._ask("GET", f"/items/{item.id}")
        if item.id in self.lost:
            raise GoneError("lost")
        if answer.status != 200:
            raise (GoneError if answer.status == 404 else NotNowError)("not here")
        assert isinstance(answer.body, Path)
        octets = answer.body.read_bytes()
        into.write(octets)
        return hashlib.sha256(octets).hexdigest()

    def delete(self, item: str) -> None:
        """See `RelayQueue`."""
        assert self._ask("DELETE", f"/items/{item}").status in {204, 404}

    def status(self) -> QueueStatus:
        """See `RelayQueue`."""
        return self.queue.status()

    @property
    def waits(self) -> Sequence[str]:
        """Ids of what it has."""
        return [item.id for item in self.queue.spool.items()]

    def _ask(self, method: str, path: str, query: Mapping[str, str] | None = None) -> Response:
        self.asked.append((method, path))
        return self._api(Request(method, path, _Nothing(), query or {}))


class AtOnce:
    """Errands that are done before anything else, without a thread."""

    def begin(self, errand: Callable[[], _T]) -> Callable[[], _T]:
        """See `Errands`."""
        try:
            result = errand()
        except Exception as error:  # raised again where the result is wanted
            failure = error

            def fail() -> _T:
                raise failure

            return fail
        return lambda: result


def make_drain(
    folder: Path,
    relay: Any,
    sink: Sink,
    tell: Callable[[str], None] = lambda _text: None,
    identities: Sequence[x25519.Identity] = (HOME,),
    errands: Errands | None = None,
    free: Callable[[Path], int] = lambda _folder: 10**12,
) -> Drain:
    """Make home's drain.

    Args:
        relay: a `RelayQueue`.
        errands: a thread's, if none are given.
        free: gives the bytes that are free on the disk.
    """
    folder.mkdir(exist_ok=True)
    return Drain(
        folder,
        Journal(folder),
        relay,
        identities,
        lambda letter, who, name, end: hand_over(letter, who, name, end, sink.place),
        tell,
        errands=errands,
        free=free,
    )
