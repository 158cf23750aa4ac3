"""darkpipe-drain: fetches what waits on the relay, while the tunnel is up and home takes mail.

`--wanted` writes down, before the start, what somebody has to look for (home/drain_traces.py).
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from home.control_errors import ControlFailure, Fenced, NotAccepted, OtherRelay, WrongCertificate
from home.drain_journal import Journal, JournalError, only_drain
from home.drain_run import INCOMING, Drain
from home.drain_state import Doing, Drained, Progress, note, progress_line
from home.drain_traces import FOUND, RUN, WANTED, Wanted, read_found, write_wanted
from home.hand_over import LostError, NobodyTakesError, hand_over
from home.quarantine import QuarantineError
from home.queue_keys import IDENTITIES, QueueKeyError, read_identities
from home.relay_peer import PEER, PeerError, queue_client, read_peer
from home.relay_queue import RelayQueue, RemoteQueue
from home.tunnel_state import read_tunnel
from home.word import UP, VERDICT, word_of
from stack.stack import DATA

_FOLDER = Path(DATA) / "drain"

_LOOK = 2.0
"""Seconds between two looks whether home can take mail."""

_ROUND = 5.0
"""Seconds between two rounds when nothing waits."""

_FENCED = 600.0
_BROKEN = 60.0
"""Seconds until the next try, when somebody has to see to it first."""

_UNSURE = 600.0
"""Seconds after which the service starts anew, when it could not be found out whether messages were taken."""

_TELL = 10.0
"""Seconds between two lines about the progress."""

_ADVICE = "`journalctl -u darkpipe-drain` says more"


@dataclass
class Report:
    """Keeps the file in /run and the log up to date.

    Args:
        path: of the file.
        clock: seconds of CLOCK_MONOTONIC.
    """

    path: Path
    clock: Callable[[], float] = time.monotonic
    state: Drained = field(init=False)
    _told: float = 0.0
    _began: float = 0.0

    def __post_init__(self) -> None:
        now = self.clock()
        self.state = Drained(written=now, doing=Doing.UNPAIRED, since=now)

    def tell(self, doing: Doing, trouble: str = "", **more: object) -> None:
        """Say what is done now."""
        now = self.clock()
        since = self.state.since if doing is self.state.doing else now
        if trouble != self.state.trouble:
            print(trouble or "what was wrong has passed", flush=True)
        self.state = self.state.model_copy(
            update={"written": now, "doing": doing, "since": since, "trouble": trouble, **more}
        )
        note(self.state, self.path)

    def step(self, progress: Progress) -> None:
        """Note how far a round has come."""
        now = self.clock()
        if progress.items == 1:
            self._began = self._told = now
        if now - self._told >= _TELL:
            self._told = now
            self._say(progress, now)
        if now - self.state.written >= 1.0:
            self.tell(Doing.DRAINING, items=progress.items, octets=progress.octets)

    def end(self, progress: Progress, lost: int) -> None:
        """Note the end of a round."""
        if progress.items:
            self._say(progress, self.clock())
        self.tell(Doing.EMPTY, items=progress.items, octets=progress.octets, put_off=progress.put_off, lost=lost)

    def _say(self, progress: Progress, now: float) -> None:
        print(progress_line(progress.items, progress.octets, now - self._began, self.state.relay), flush=True)


def why_not() -> str:
    """Say why no mail can be taken now; empty when it can."""
    try:
        word = word_of(VERDICT.read_text(encoding="ascii"), time.monotonic())
    except (OSError, ValueError):
        word = ""
    if word != UP:
        return "home takes no mail now"
    tunnel = read_tunnel()
    return "" if tunnel is not None and tunnel.up else "the tunnel is down"


def serve(
    folder: Path,
    keys: Path,
    report: Report,
    stopped: threading.Event,
    run: Path = RUN,
    ready: Callable[[], str] = why_not,
) -> None:
    """Drain until told to stop, until somebody has to look for something, or until there may be other keys.

    systemd starts it again then, and hands over the keys that lie there now.

    Args:
        folder: on the data disk.
        keys: folder with the credentials.
        ready: says why no mail can be taken now.
    """
    began = time.monotonic()
    peer = read_peer(keys / PEER)
    if peer is None:
        report.tell(Doing.UNPAIRED)
        stopped.wait(_BROKEN)
        return
    journal = Journal(folder)
    journal.prune(time.time_ns() // 1_000_000)
    identities = read_identities(keys / IDENTITIES)
    with only_drain(folder), queue_client(keys, peer) as client:
        relay = RemoteQueue(client)
        drain = Drain(folder, journal, relay, identities, hand_over, lambda text: print(text, flush=True), report.step)
        drain.settle(read_found(run / FOUND))
        while not stopped.is_set():
            if any(entry.unsure for entry in journal.open_entries()) and time.monotonic() - began > _UNSURE:
                return
            if ready():
                report.tell(Doing.AWAY)
                stopped.wait(_LOOK)
                continue
            try:
                stopped.wait(one_round(drain, relay, report))
            except LostError:
                return
            except (WrongCertificate, NotAccepted, OtherRelay) as error:
                report.tell(Doing.PAUSED, str(error))
                stopped.wait(drain.pause())
                return


def one_round(drain: Drain, relay: RelayQueue, report: Report) -> float:
    """Go through the queue once, and give the seconds until the next time.

    Raises:
        LostError: somebody has to look.
        WrongCertificate, NotAccepted, OtherRelay: home or the relay may have other keys by now.
    """
    try:
        status = relay.status()
        report.tell(report.state.doing, report.state.trouble, relay=status)
        if status.bucket:
            drain.remember(status.bucket)
        report.end(drain.round(), drain.lost)
        return _ROUND
    except (WrongCertificate, NotAccepted, OtherRelay):
        raise
    except Fenced as error:
        report.tell(Doing.FENCED, f"{error} `darkpipe relay status` shows which home the relay serves")
        return _FENCED
    except ControlFailure as error:
        report.tell(Doing.PAUSED, str(error))
        return drain.pause()
    except NobodyTakesError as error:
        report.tell(Doing.PAUSED, f"the drain waits: {error}")
        return drain.pause()
    except (JournalError, QuarantineError, OSError) as error:
        report.tell(Doing.PAUSED, f"the drain cannot go on: {error}; {_ADVICE}")
        return _BROKEN


def write_down(folder: Path, run: Path = RUN) -> None:
    """Write down which messages have got no answer."""
    journal = Journal(folder)
    unsure = [
        Wanted(trace=entry.trace, port=entry.port, since=_fetched(folder, entry.item.id))
        for entry in journal.open_entries()
        if entry.unsure
    ]
    journal.close()
    write_wanted(run / WANTED, unsure)


def _fetched(folder: Path, item: str) -> int:
    """Give the time at which an item was fetched, in seconds since 1970; 0 when that is not known."""
    try:
        return max(int((folder / INCOMING / f"{item}.letter").stat().st_mtime), 0)
    except OSError:
        return 0


def main() -> None:
    """Run as systemd's service."""
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    try:
        if sys.argv[1:] == ["--wanted"]:
            write_down(_FOLDER)
            return
        serve(_FOLDER, Path(os.environ["CREDENTIALS_DIRECTORY"]), Report(RUN / "state.json"), stopped)
    except (JournalError, QueueKeyError, PeerError, OSError) as error:
        report = Report(RUN / "state.json")
        report.tell(Doing.PAUSED, f"{error}; {_ADVICE}")
        stopped.wait(_BROKEN)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
