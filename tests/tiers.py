"""Runs the tests tier by tier: the cheap ones first, the next tier only after all of the last one have passed."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

REPOSITORY = Path(__file__).resolve().parent.parent
TIERS = tuple(name for name in ("unit", "network", "machine", "images") if (REPOSITORY / "tests" / name).is_dir())
"""The folders of tests, in the order of what they cost."""

_NOTHING_COLLECTED = 5  # pytest's exit status


@dataclass(frozen=True)
class Outcome:
    """What came of one tier.

    Args:
        tier: its name.
        passed: tests that passed.
        failed: tests that failed or could not be run; at least one when pytest itself failed.
        skipped: tests that were left out.
        seconds: time on the clock.
    """

    tier: str
    passed: int
    failed: int
    skipped: int
    seconds: float

    def __str__(self) -> str:
        return f"{self.tier:8} {counts(self.passed, self.failed, self.skipped):36} {clock(self.seconds):>14}"


def run_tiers(names: Sequence[str], arguments: Sequence[str] = ()) -> list[Outcome]:
    """Run tiers until one fails.

    Args:
        names: tiers, in the order in which they are to run.
        arguments: further arguments for pytest; a tier in which they select nothing counts as passed.
    """
    outcomes = []
    for name in names:
        print(f"\n=== tests/{name} ===", flush=True)
        outcomes.append(_run_tier(name, arguments))
        if outcomes[-1].failed:
            break
    return outcomes


def summary(outcomes: Sequence[Outcome], names: Sequence[str]) -> str:
    """Put the outcomes into a table whose last line has the sums.

    Args:
        outcomes: what was run.
        names: what was to be run.
    """
    lines = [str(outcome) for outcome in outcomes]
    lines += [f"{name:8} not run" for name in names[len(outcomes) :]]
    passed, failed, skipped = (
        sum(getattr(outcome, field) for outcome in outcomes) for field in ("passed", "failed", "skipped")
    )
    return "\n".join(["", *lines, counts(passed, failed, skipped)])


def counts(passed: int, failed: int, skipped: int) -> str:
    """`3 passed, 0 failed`, and what was skipped if anything was."""
    return f"{passed} passed, {failed} failed" + (f", {skipped} skipped" if skipped else "")


def clock(seconds: float) -> str:
    """A duration for people: `4.1 s`, `12 min 3 s`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s"


def _run_tier(name: str, arguments: Sequence[str]) -> Outcome:
    with tempfile.TemporaryDirectory(prefix="darkpipe-tests-") as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", f"tests/{name}", f"--junit-xml={report}", *arguments]
        started = time.monotonic()
        status = _run_to_its_end(command)
        seconds = time.monotonic() - started
        passed, failed, skipped = _read_report(report)
    nothing_expected = status == _NOTHING_COLLECTED and bool(arguments)
    if status != 0 and not nothing_expected:
        failed = max(failed, 1)
    return Outcome(name, passed, failed, skipped, seconds)


def _run_to_its_end(command: Sequence[str]) -> int:
    """Wait for pytest also after Ctrl-C or SIGTERM, which reach it as well: it still switches its machines off."""
    handled = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda *_: None) for number in handled]
    try:
        with subprocess.Popen(command, cwd=REPOSITORY) as process:
            return process.wait()
    finally:
        for number, handler in zip(handled, before, strict=True):
            signal.signal(number, handler)


def _read_report(report: Path) -> tuple[int, int, int]:
    if not report.exists():
        return 0, 0, 0
    try:
        suite = ElementTree.parse(report).getroot().find("testsuite")
    except ElementTree.ParseError as error:
        print(f"pytest's report cannot be read ({error}): is the disk full?", file=sys.stderr, flush=True)
        return 0, 1, 0
    if suite is None:
        return 0, 0, 0
    total, errors, failures, skipped = (int(suite.get(key, "0")) for key in ("tests", "errors", "failures", "skipped"))
    failed = errors + failures
    return max(total - failed - skipped, 0), failed, skipped
