"""Home's journal at a power cut: what sqlite promises, and no more.

sqlite writes past Python, so that nothing of it is wrapped. A commit with `synchronous=FULL` is durable when it
returns, one with `NORMAL` is not (https://sqlite.org/wal.html): how far the log is durable is noted after each of the
former.
"""

from __future__ import annotations

import shutil
import struct
from pathlib import Path

from home.drain import Entry
from home.drain_journal import NAME, Journal

_HEADER, _FRAME_HEADER = 32, 24


class WatchedJournal(Journal):
    """The journal, which knows how much of its log is on the disk.

    Args:
        synced: whether it syncs at all; not so is a planted fault.
    """

    def __init__(self, folder: Path, *, synced: bool) -> None:
        super().__init__(folder)
        self._folder, self._synced = folder, synced
        self._durable = self._log()

    def note(self, entry: Entry, *, soon: bool = False) -> None:
        super().note(entry, soon=soon or not self._synced)
        if self._synced and not soon:
            self._durable = self._log()

    def _log(self) -> tuple[bytes, int]:
        """Give the log's salt and the number of its frames, from the index that sqlite maps (walformat.html)."""
        try:
            with (self._folder / f"{NAME}-shm").open("rb") as file:
                head = file.read(40)
        except FileNotFoundError:
            return b"", 0
        return head[32:40], struct.unpack("=I", head[16:20])[0]

    def after_kill(self, folder: Path) -> None:
        """Copy the files as they are."""
        for path in self._folder.glob(f"{NAME}*"):
            if not path.name.endswith("-shm"):
                shutil.copy(path, folder)

    def after_power_cut(self, folder: Path) -> None:
        """Copy what is durable for sure: a log that has begun anew since has nothing of that."""
        self.after_kill(folder)
        log = folder / f"{NAME}-wal"
        if not log.exists() or log.stat().st_size < _HEADER:
            return
        page = struct.unpack(">I", log.read_bytes()[8:12])[0]
        salt, frames = self._durable
        same = salt == self._log()[0]
        with log.open("r+b") as file:
            file.truncate(_HEADER + (frames * (_FRAME_HEADER + page) if same else 0))
