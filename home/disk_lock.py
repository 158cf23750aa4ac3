"""One `darkpipe disk` command at a time: each decides by the keys that it has seen, and a person types meanwhile."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from firstboot.unlocking import Refused

LOCK = Path("/run/darkpipe-disk.lock")


@contextmanager
def only_command(path: Path = LOCK) -> Iterator[None]:
    """Keep other commands that change the keys away for the block; a process that dies keeps none away (flock(2)).

    Raises:
        Refused: another one is under way.
        OSError: nobody can tell.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Refused(
                "another `darkpipe disk` command is under way, and may wait for an answer; nothing was changed. Let it "
                "end, and give this one again"
            ) from None
        yield
    finally:
        os.close(descriptor)
