"""The drain and its quarantine, for the status of the device."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from home.bucket_seen import read_seen
from home.drain_state import STATE, Doing, Drained, read_drained
from home.quarantine import FOLDER, Kind, Quarantine
from home.readings import Problem, Reading


class Waiting(Reading):
    """What comes by way of the relay's queue.

    Args:
        drain: what the drain does; None when it does not say.
        refused: messages in quarantine that the mail server had refused.
        sealed: items in quarantine that cannot be opened.
        damaged: files in quarantine that cannot be read.
        left: folders in the bucket that the relay is not at work in any more.
    """

    drain: Drained | None
    refused: int
    sealed: int
    damaged: int
    left: int = 0


def read_waiting(state: Path = STATE, folder: Path = FOLDER) -> Waiting:
    """Read it.

    Raises:
        OSError: the disk fails.
    """
    kept, broken = Quarantine(folder).all() if folder.is_dir() else ((), ())
    sealed, drain = sum(one.kind is Kind.SEALED for one in kept), read_drained(state)
    at_work = drain.relay.bucket if drain and drain.relay else None
    # While the relay does not say which is its own, any of them may be.
    left = len(read_seen(folder.parent).keys() - {at_work.folder}) if at_work else 0
    return Waiting(drain=drain, refused=len(kept) - sealed, sealed=sealed, damaged=len(broken), left=left)


def waiting_problems(waiting: Waiting) -> Iterator[Problem]:
    """Give what is wrong."""
    drain = waiting.drain
    if drain is not None and drain.trouble and drain.doing in {Doing.PAUSED, Doing.FENCED}:
        yield Problem(
            found=f"mail that waits on the relay does not come: {drain.trouble}",
            remedy="see more: journalctl -b -u darkpipe-drain",
        )
    if drain is not None and drain.relay is not None:
        for fault in drain.relay.faults:
            yield Problem(found=f"the relay says: {fault.found}", remedy=fault.remedy)
    if drain is not None and drain.lost:
        yield Problem(
            found=f"{drain.lost} messages that had waited on the relay are lost: it has them no more",
            remedy="see which: journalctl -b -u darkpipe-drain; their senders may have been told that they are late",
        )
    if waiting.left:
        yield Problem(
            found="in the bucket lies what a relay of before has left there, which does not come by itself",
            remedy="fetch it: darkpipe relay recover-bucket",
        )
    if waiting.refused:
        yield Problem(
            found=f"{waiting.refused} messages that waited on the relay were refused here and lie in quarantine",
            remedy="see which, and release or delete them: darkpipe quarantine list",
        )
    if waiting.sealed:
        yield Problem(
            found=f"{waiting.sealed} items from the relay cannot be opened and lie in quarantine",
            remedy="see why: darkpipe quarantine list; unless keys are missing here, somebody may have forged them",
        )
    if waiting.damaged:
        yield Problem(
            found=f"{waiting.damaged} files in quarantine cannot be read", remedy=f"look at them: ls {FOLDER}"
        )
