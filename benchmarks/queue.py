"""Accepting mail for home: sealed and synced by the queue behind Postfix, against Postfix's own queue.

Both lie on the same disk, and neither delivers anything meanwhile. The rounds take all ways, each time in another
order, and the ratio is the median of the rounds' own ratios, as in `benchmarks/relay.py`.
"""

from __future__ import annotations

import itertools
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyrage

from benchmarks.kit.postfix import POSTFIX_MAIN
from benchmarks.kit.processes import memory
from benchmarks.kit.report import Row, megabytes, show
from benchmarks.kit.root import root_and_scratch
from builder.build import SOURCE
from builder.errors import BuildError
from model.control import QueueSettings
from model.recipients import DomainRule, RecipientList
from relay.entry import Entry
from relay.queue import RECIPIENTS, SETTINGS
from tests.machine.machine import wait_for, why_not
from tests.network.net import Namespace, namespace
from tests.network.postfix import POSTFIX_MASTER, running_postfix

_ROUNDS = 6
_PATIENCE = 300
"""Seconds for all messages of one way in one round."""

_RECIPIENT = "alice@example.com"
_QUEUE_PORT = 10026
_SIZES = ((5_000, 800, 16), (50_000, 400, 16), (1_000_000, 60, 8), (25_000_000, 4, 4))
"""Octets of a message, how many, and how many at once."""


@dataclass(frozen=True)
class _Way:
    """One way to keep a message; its port is that of its Postfix."""

    name: str
    port: int
    settings: str


_OWN = _Way("Postfix's own queue", 2526, "defer_transports = relay\n")
_SEALED = _Way("sealed, behind Postfix", 2527, f"smtpd_proxy_filter = 127.0.0.1:{_QUEUE_PORT}\n")
_WAYS = (_OWN, _SEALED)
_ORDERS = tuple(itertools.permutations(_WAYS))


@dataclass(frozen=True)
class _Scene:
    """A relay with both ways.

    Args:
        spools: where each way keeps its messages.
        programs: processes whose memory counts, by name.
    """

    place: Namespace
    root: Path
    spools: dict[_Way, Path]
    programs: dict[str, int]

    def send(self, way: _Way, count: int, octets: int, sessions: int) -> float:
        """Send by Postfix's smtp-source(1), a connection for each message; gives the seconds."""
        before = _kept(self.spools[way])
        options = [f"-s{sessions}", f"-m{count}", f"-l{octets}", "-fa@example.net", f"-t{_RECIPIENT}"]
        source = ("timeout", str(_PATIENCE), "chroot", str(self.root), "smtp-source", *options)
        begun = time.monotonic()
        self.place.run(*source, f"127.0.0.1:{way.port}")
        seconds = time.monotonic() - begun
        kept = _kept(self.spools[way]) - before
        if len(kept) != count:
            raise BuildError(f"{way.name}: kept {len(kept)} of {count} messages")
        return seconds


def _kept(folder: Path) -> set[str]:
    """Name the messages in a spool; Postfix has more in its own than them, and moves them about."""
    own = {"incoming", "active", "deferred"}
    files = (path for path in folder.rglob("*") if Entry.parse(path.name) or own & set(path.parts))
    return {path.name for path in files if not path.is_dir()}


def main() -> None:
    """Measure and print a table."""
    if reason := why_not():
        raise BuildError(f"the benchmark cannot run here: {reason}")
    with _scene() as scene:
        for way in _WAYS:  # their processes run then
            scene.send(way, 100, 1000, 16)
        rows = [row for octets, count, sessions in _SIZES for row in _speeds(scene, octets, count, sessions)]
        own, sealed, queue = (scene.programs[name] for name in ("own", "sealed", "queue"))
        rows += [
            Row("memory at the end: Postfix with its own queue", megabytes(memory(own))),
            Row("memory at the end: Postfix and the queue behind it", megabytes(memory(sealed) + memory(queue))),
            Row("memory, most ever: the queue alone", megabytes(_most_memory(queue))),
        ]
    show(rows)


def _speeds(scene: _Scene, octets: int, count: int, sessions: int) -> Iterator[Row]:
    seconds: dict[_Way, list[float]] = {way: [] for way in _WAYS}
    for number in range(_ROUNDS):
        for way in _ORDERS[number % len(_ORDERS)]:
            seconds[way].append(scene.send(way, count, octets, sessions))
    size = f"{octets / 10**6:.0f} MB" if octets >= 10**6 else f"{octets / 10**3:.0f} KB"
    for way in _WAYS:
        speeds = sorted(count / one for one in seconds[way])
        digits = 0 if speeds[0] > 20 else 1
        spread = (
            f"{statistics.median(speeds):.{digits}f} messages/s ({speeds[0]:.{digits}f} to {speeds[-1]:.{digits}f})"
        )
        ratios = sorted(own / one for own, one in zip(seconds[_OWN], seconds[way], strict=True))
        ratio = f"{statistics.median(ratios):.2f} of that ({ratios[0]:.2f} to {ratios[-1]:.2f})" if way != _OWN else ""
        yield Row(f"{size}, {sessions} at a time: {way.name}", spread, ratio)


def _most_memory(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


@contextmanager
def _scene() -> Iterator[_Scene]:
    with ExitStack() as stack:
        root, scratch = stack.enter_context(root_and_scratch())
        place = stack.enter_context(namespace())
        queue = _run_queue(stack, place, scratch)
        postfix = {way: _run_postfix(stack, place, way, root, scratch) for way in _WAYS}
        spools = {_OWN: scratch / f"{_OWN.port}/var/spool/postfix", _SEALED: scratch / "spool"}
        programs = {"own": postfix[_OWN].pid, "sealed": postfix[_SEALED].pid, "queue": queue.pid}
        yield _Scene(place, root, spools, programs)


def _run_queue(stack: ExitStack, place: Namespace, scratch: Path) -> subprocess.Popen[bytes]:
    (scratch / "spool").mkdir(mode=0o700)
    (config := scratch / "config").mkdir()
    known = RecipientList.make(1, {"example.com": DomainRule()}, [_RECIPIENT])
    (config / RECIPIENTS).write_text(known.text())
    keys = tuple(str(pyrage.x25519.Identity.generate().to_public()) for _ in range(2))
    settings = QueueSettings(1, "mx.example.com", ("example.com",), "queue", keys, 10**11)
    (config / SETTINGS).write_bytes(settings.to_json())
    command = ["env", f"PYTHONPATH={SOURCE}", sys.executable, "-m", "relay.service"]
    process = stack.enter_context(place.running(*command, "--config", str(config), "--spool", str(scratch / "spool")))
    wait_for(lambda: place.reachable([_QUEUE_PORT], "127.0.0.1") == {_QUEUE_PORT}, "the queue")
    return process


def _run_postfix(stack: ExitStack, place: Namespace, way: _Way, root: Path, scratch: Path) -> subprocess.Popen[bytes]:
    folder, name = scratch / str(way.port), "mx.example.com"
    settings = folder / "settings"
    settings.mkdir(parents=True)
    (settings / "main.cf").write_text(POSTFIX_MAIN.format(name=name, transport="relay:[192.0.2.1]") + way.settings)
    doors = f"{way.port} inet n - n - - smtpd\nrelay unix - - n - - smtp"
    (settings / "master.cf").write_text(POSTFIX_MASTER.format(doors=doors))
    process = stack.enter_context(
        running_postfix(place, settings, name, root, folder, scratch / f"{way.port}.log", disk=True)
    )
    wait_for(lambda: place.reachable([way.port], "127.0.0.1") == {way.port}, f"Postfix on port {way.port}")
    return process


if __name__ == "__main__":
    try:
        main()
    except (BuildError, AssertionError) as error:
        sys.exit(f"Error: {error}")
