"""Looking for messages whose last octet had gone out and whose answer never came: does home's mail server have them?

A session writes `DarkPipe-Item: TRACE` on top of its message; Postfix takes that for all its recipients or for none.
It is looked for in Postfix's queue, and then among what was saved in mailboxes since; a message moves in this direction
only. darkpipe-drain may read neither, so that systemd runs this as root before it starts the drain (ExecStartPre=+).
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from home.hand_over import FIELD, PLACE
from stack.durable import write_atomically

WANTED, FOUND = "wanted.json", "found.json"
RUN = Path("/run/darkpipe-drain")

_PATIENCE = 60.0
"""Seconds for a command."""

_SESSION = 120.0
"""Seconds for Postfix to end a session whose client has gone: longer than its filters may take."""

_TABLES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
_OVER = frozenset({"06", "07"})
"""TIME_WAIT and CLOSE: nobody has such a socket any more (<net/tcp_states.h>)."""

_ROUNDS = 2
"""Times that queue and mailboxes are looked through: a message may move while Postfix lists its queue."""


class Wanted(BaseModel):
    """A message that is looked for.

    Args:
        trace: what stands on top of it.
        port: from which it was handed over, on this device; 0 when that is not known.
        since: seconds since 1970; it was handed over no earlier. A device may have been off for weeks since then.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    trace: Annotated[str, Field(pattern=r"^[0-9a-f]{32}\.[0-9]{1,9}$")]
    port: Annotated[int, Field(ge=0, lt=2**16)]
    since: Annotated[int, Field(ge=0, lt=2**33)] = 0


class Unknown(Exception):
    """It cannot be found out now; the text says why."""


@dataclass(frozen=True)
class Look:
    """Where to look.

    Args:
        run: runs a command and gives what it prints.
        sockets: gives the lines of the kernel's tables of TCP sockets.
        sleep: waits for some seconds.
        now: the time of day.
    """

    run: Callable[[Sequence[str]], str]
    sockets: Callable[[], Iterable[str]]
    sleep: Callable[[float], None] = time.sleep
    now: Callable[[], datetime] = lambda: datetime.now(UTC)

    def find(self, wanted: Sequence[Wanted]) -> Mapping[str, bool]:
        """Tell of each message whether the mail server has it.

        Raises:
            Unknown: a session is still under way, or a command has failed.
        """
        self._wait({one.port for one in wanted if one.port})
        missing = {one.trace: one.since for one in wanted}
        for _ in range(_ROUNDS):
            there = self._queued(set(missing))
            there |= {trace for trace, since in missing.items() if trace not in there and self._delivered(trace, since)}
            missing = {trace: since for trace, since in missing.items() if trace not in there}
        return {one.trace: one.trace not in missing for one in wanted}

    def _wait(self, ports: set[int]) -> None:
        """Wait until Postfix has ended the sessions: until then it may still take what it has."""
        for _ in range(int(_SESSION)):
            if not ports & set(_served(self.sockets())):
                return
            self.sleep(1.0)
        raise Unknown("Postfix has not ended a session yet")

    def _queued(self, traces: set[str]) -> set[str]:
        if not traces:
            return set()
        found = set()
        for line in self.run(("postqueue", "-j")).splitlines():
            head = self._head(json.loads(line)["queue_id"])
            found |= {trace for trace in traces if f"{FIELD}: {trace}" in head}
        return found

    def _head(self, queue_id: str) -> Sequence[str]:
        try:
            return self.run(("postcat", "-qh", queue_id)).splitlines()
        except Unknown:
            # It has left the queue meanwhile: then it is in a mailbox, or on its way to somebody else's.
            return ()

    def _delivered(self, trace: str, since: int) -> bool:
        # Dovecot counts days, of its own time zone; and a clock that was ahead may have been set back.
        first = min(self.now(), datetime.fromtimestamp(since, UTC)) - timedelta(days=2)
        day = max(first, datetime(1970, 1, 1, tzinfo=UTC)).strftime("%Y-%m-%d")
        query = ("mailbox", "*", "savedsince", day, "header", FIELD, trace)
        return bool(self.run(("doveadm", "search", "-A", *query)).strip())


def _served(lines: Iterable[str]) -> Iterator[int]:
    """Give the other ends' ports of all connections to the drain's listener (proc_net_tcp(5))."""
    for line in lines:
        fields = line.split()
        if len(fields) > 3 and fields[1].endswith(f":{PLACE[1]:04X}") and fields[3] not in _OVER:
            yield int(fields[2].rpartition(":")[2], 16)


def _run(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE, check=False, errors="replace")
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unknown(f"{command[0]} gives no answer: {type(error).__name__}") from None
    if done.returncode != 0:
        raise Unknown(f"{command[0]} has failed: {done.stderr.strip()[:200]}")
    return done.stdout


def _sockets() -> Iterator[str]:
    for table in _TABLES:
        if table.exists():
            yield from table.read_text(encoding="ascii").splitlines()[1:]


def read_wanted(path: Path) -> Sequence[Wanted]:
    """Read what the drain wants to know; nothing when there is no such file.

    Raises:
        Unknown: it is damaged.
    """
    try:
        return [Wanted.model_validate(one) for one in json.loads(path.read_bytes())]
    except FileNotFoundError:
        return ()
    except (ValueError, TypeError, ValidationError):
        raise Unknown(f"{path} is damaged") from None


def write_wanted(path: Path, wanted: Sequence[Wanted]) -> None:
    """Write what the drain wants to know."""
    path.write_text(json.dumps([one.model_dump() for one in wanted]))


def read_found(path: Path) -> Mapping[str, bool]:
    """Read what was found; nothing when nobody has looked."""
    try:
        found = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return {str(trace): bool(there) for trace, there in found.items()} if isinstance(found, dict) else {}


def main() -> None:
    """Run before the drain."""
    (RUN / FOUND).unlink(missing_ok=True)
    wanted: Sequence[Wanted] = ()
    try:
        wanted = read_wanted(RUN / WANTED)
        if not wanted:
            return
        found = Look(_run, _sockets).find(wanted)
    except (Unknown, ValueError, LookupError) as error:
        print(f"whether {len(wanted)} messages were taken cannot be found out now: {error}", flush=True)
        return
    write_atomically(RUN / FOUND, json.dumps(found).encode(), 0o644)
    print(f"looked for {len(found)} messages without an answer: home has {sum(found.values())} of them", flush=True)


if __name__ == "__main__":
    main()
