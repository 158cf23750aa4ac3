"""The items that the drain has fetched: ciphertexts and opened letters on home's disk, the next one already on its way.

While a letter is handed over, one more item is fetched and opened, of bounded size. The letter of an item that the
journal knows stays, since the relay may have died meanwhile; one whose turn never came does not.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from pyrage import x25519

from home.control_errors import ControlFailure
from home.drain_errands import Errands
from home.drain_letter import Letter, LetterError, read_letter, unseal
from home.relay_queue import GoneError, NotNowError, RelayQueue
from model.control import QueuedItem

_DAMAGED = 3
"""Times that an item is fetched whose checksum is not what the relay has told."""

_LARGEST_AHEAD = 32 * 2**20
"""Octets of the largest item that is fetched ahead; twice as many of the disk, its ciphertext and its letter."""


class Incoming:
    """The folder of what was fetched.

    Args:
        folder: nobody else writes there.
        relay: asked by errands only, of which one runs at a time.
        identities: home's keys, of which any may open an item.
        tell: says something to the log.
        under_way: ids of the items whose letters stay at a start; all else in the folder is removed.

    Raises:
        OSError: the disk fails.
    """

    def __init__(
        self,
        folder: Path,
        relay: RelayQueue,
        identities: Sequence[x25519.Identity],
        errands: Errands,
        tell: Callable[[str], None],
        under_way: Collection[str],
    ) -> None:
        self._folder, self._relay, self._identities = folder, relay, identities
        self._errands, self._tell = errands, tell
        self._damaged: dict[str, int] = {}
        self._latest: Letter | None = None
        self._ahead: tuple[str, Callable[[], Letter | None]] | None = None
        folder.mkdir(mode=0o700, exist_ok=True)
        self._tidy(under_way)

    def letter(self, item: QueuedItem) -> Letter | None:
        """Give the letter in an item, which is fetched unless it is here; None when another one came than was told.

        Raises:
            GoneError, NotNowError, ControlFailure: the relay does not give it.
            LetterError: it cannot be opened; the ciphertext is here.
            OSError: the disk fails.
        """
        if self._ahead and self._ahead[0] == item.id:
            _, result = self._ahead
            self._ahead = None
            self._latest = result() or self._latest
        path = self._path(item.id, "letter")
        if self._latest is None or self._latest.path != path:
            self._latest = self._kept(item.id)
        if self._latest is None:
            if not self._fetch(item):
                return None
            self._latest = self._open(item.id)
        return self._latest

    def has(self, item: str) -> bool:
        """Tell whether an item's letter is here."""
        return self._path(item, "letter").exists()

    def fetch_ahead(self, item: QueuedItem | None) -> None:
        """Begin to fetch and open the item that comes next, if one does; what goes wrong shows when its turn comes."""
        if item is None or item.size > _LARGEST_AHEAD or self.has(item.id):
            return
        if self._ahead is None or self._ahead[0] != item.id:
            self.drop_ahead()
            self._ahead = item.id, self._errands.begin(partial(self._try_ahead, item))

    def wait(self) -> None:
        """Wait until nothing is fetched ahead any more; what was stays here."""
        if self._ahead:
            self._ahead[1]()

    def drop_ahead(self) -> None:
        """Forget what was fetched ahead and whose turn never came.

        Raises:
            OSError: the disk fails.
        """
        if self._ahead:
            item, result = self._ahead
            self._ahead = None
            result()
            self.forget(item)

    def sealed(self, item: QueuedItem) -> Path | None:
        """Give the ciphertext of an item that is no letter, whatever it is; None when the relay does not give it.

        Raises:
            ControlFailure, OSError: as above.
        """
        sealed = self._path(item.id, "age")
        if not sealed.exists():
            self.forget(item.id)
            try:
                self._download(item)
            except (GoneError, NotNowError):
                return None
        return sealed

    def forget(self, item: str) -> None:
        """Remove an item's files.

        Raises:
            OSError: the disk fails.
        """
        path = self._path(item, "letter")
        if self._latest is not None and self._latest.path == path:
            self._latest = None
        for one in (path, self._path(item, "age")):
            one.unlink(missing_ok=True)

    def _kept(self, item: str) -> Letter | None:
        """Read the letter that is here; one that the disk does not give back is none, until it was fetched anew."""
        path = self._path(item, "letter")
        try:
            return read_letter(path) if path.exists() else None
        except OSError as error:
            self._tell(f"item {item} cannot be read here any more ({error.strerror}), and is fetched anew")
            return None

    def _fetch(self, item: QueuedItem) -> bool:
        if self._download(item):
            return True
        self._damaged[item.id] = self._damaged.get(item.id, 0) + 1
        self._tell(f"item {item.id} is another one than the relay has told: its checksum differs")
        return self._damaged[item.id] >= _DAMAGED

    def _download(self, item: QueuedItem) -> bool:
        """Have the ciphertext fetched; tells whether it is the one that the relay has told of."""
        return self._errands.begin(partial(self._write, item))()

    def _write(self, item: QueuedItem) -> bool:
        sealed = self._path(item.id, "age")
        try:
            with sealed.open("wb") as file:
                found = self._relay.fetch(item, file)
        except BaseException:
            _drop(sealed)
            raise
        return found == item.sha256 and sealed.stat().st_size == item.size

    def _open(self, item: str) -> Letter:
        sealed = self._path(item, "age")
        try:
            letter = unseal(sealed, self._path(item, "letter"), self._identities)
        except OSError:
            _drop(sealed)
            raise
        sealed.unlink()
        return letter

    def _try_ahead(self, item: QueuedItem) -> Letter | None:
        with suppress(GoneError, NotNowError, ControlFailure, LetterError, OSError):
            if self._write(item):
                return self._open(item.id)
        _drop(self._path(item.id, "age"))
        return None

    def _path(self, item: str, kind: str) -> Path:
        return self._folder / f"{item}.{kind}"

    def _tidy(self, under_way: Collection[str]) -> None:
        for path in self._folder.iterdir():
            if path.suffix != ".letter" or path.stem not in under_way:
                path.unlink()


def _drop(path: Path) -> None:
    """Let what was cut off take no room until the next try."""
    with suppress(OSError):
        path.unlink()
