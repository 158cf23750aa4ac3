"""darkpipe-verdict: keeps the answer to "can mail be taken?" at hand, in a file that is never old.

To ask every service takes seconds, writes lines into logs and a file onto the disk. So that is done every half minute,
and what shows at once without asking is looked at every second: a service without processes, a disk without room.
"""

from __future__ import annotations

import signal
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path

from home.room import free_room, lacks_room
from home.status import Readiness, readiness
from home.word import UP, VERDICT, down
from stack.pending import Late, Pending, begin
from stack.stack import COMPONENTS, DATA, Stack

_LOOK = 1.0
_ASK_GOOD = 30.0
_ASK_BAD = 5.0
"""Seconds between the ends of questions and the next ones: while all is well, and while it is not."""

_HANGS = 20.0
"""Seconds after which a question hangs that gives itself up after 16."""


@dataclass(frozen=True)
class Asked:
    """What was found out by asking.

    Args:
        word: of the latest question; before the first there is no reason to say yes.
        next: when to ask again, in seconds of CLOCK_MONOTONIC.
        begun: when the question began that is under way, if one is.
        void: whether its answer is worth nothing, since a fault came up meanwhile.
    """

    word: str = "down#not asked yet"
    next: float = 0.0
    begun: float | None = None
    void: bool = False


def answered(asked: Asked, verdict: Readiness, now: float) -> Asked:
    """Take an answer in."""
    if asked.void:
        return replace(asked, begun=None, void=False, next=now)
    word = UP if verdict.ready else down("; ".join(verdict.reasons))
    return replace(asked, word=word, begun=None, next=now + (_ASK_GOOD if verdict.ready else _ASK_BAD))


def judge(asked: Asked, obvious: str | None, now: float) -> tuple[Asked, str]:
    """Give the word of this moment.

    Args:
        obvious: what shows without asking, None when that is nothing.

    Returns:
        What is known from asking, which an obvious fault makes worthless, and the word.
    """
    if obvious:
        # Until the services have been asked again, that the fault has gone proves nothing.
        void = asked.begun is not None
        return replace(asked, word=down(obvious), void=void, next=min(asked.next, now)), down(obvious)
    if asked.begun is not None and now - asked.begun > _HANGS:
        return asked, down("the question hangs")
    return asked, asked.word


def obvious_fault(stack: Stack, folder: Path, cgroups: Path | None) -> str | None:
    """Look at what shows without asking anybody.

    Args:
        folder: where data is written.
        cgroups: folder with the services' cgroups; None when there are none to look at.
    """
    if cgroups:
        for service in stack.services:
            if any(health.to_receive for health in service.health) and not _runs(cgroups / f"{service.name}.service"):
                return f"{service.name} does not run"
    try:
        free = free_room(folder)
    except OSError as error:
        return f"the data disk: {error.strerror}"
    return "the data disk is full" if lacks_room(free, 0) else None


def own_slice(text: str, root: Path = Path("/sys/fs/cgroup")) -> Path | None:
    """Find the folder with the cgroups of this and of the other services (cgroups(7), version 2).

    Args:
        text: content of /proc/self/cgroup.
    """
    paths = [row.removeprefix("0::/") for row in text.splitlines() if row.startswith("0::/")]
    folder = root / paths[0] if paths else root
    return folder.parent if (folder / "cgroup.events").is_file() else None


def _runs(cgroup: Path) -> bool:
    try:
        return "populated 1" in (cgroup / "cgroup.events").read_text().splitlines()
    except OSError:
        return False  # systemd removes the cgroup of what has ended


def _write(word: str) -> None:
    partial = VERDICT.with_name(".new")
    partial.write_text(f"{time.monotonic():.3f} {word}\n")
    partial.replace(VERDICT)


def keep(stack: Stack, folder: Path, stopped: threading.Event) -> None:
    """Keep the file until told to stop; then it says that mail cannot be taken."""
    cgroups = own_slice(Path("/proc/self/cgroup").read_text())
    asked, told = Asked(), ""
    pending: Pending[Readiness] | None = None
    while not stopped.is_set():
        now = time.monotonic()
        asked, pending = _collect(asked, pending, now)
        fault = obvious_fault(stack, folder, cgroups)
        if pending is None and fault is None and now >= asked.next:
            asked, pending = replace(asked, begun=now), begin(readiness, stack, folder)
        asked, word = judge(asked, fault, now)
        _write(word)
        if word != told:
            print(word, flush=True)
            told = word
        stopped.wait(_LOOK)
    _write(down("stopping"))


def _collect(asked: Asked, pending: Pending[Readiness] | None, now: float) -> tuple[Asked, Pending[Readiness] | None]:
    if pending is None:
        return asked, None
    try:
        return answered(asked, pending.result(now), now), None
    except Late:
        return asked, pending


def main() -> None:
    """Run as systemd's service."""
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    keep(Stack.load(COMPONENTS), Path(DATA) / "ready", stopped)


if __name__ == "__main__":
    main()
