"""Numbers as lines of a Markdown table, and the machine that they are from."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

_T = TypeVar("_T")


@dataclass(frozen=True)
class Row:
    """One line of a report.

    Args:
        what: what was measured.
        value: the number with its unit.
        ratio: against which peer, and how it compares.
        target: what the project promises; empty when it promises nothing.
    """

    what: str
    value: str
    ratio: str = ""
    target: str = ""


def show(rows: Sequence[Row]) -> None:
    """Print the machine and a table."""
    print(f"{time.strftime('%Y-%m-%d', time.gmtime())}, {machine()}\n")
    cells = [("what", "measured", "ratio", "target"), *((r.what, r.value, r.ratio, r.target) for r in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(4)]
    lines = ["| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in cells]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    print("\n".join([lines[0], rule, *lines[1:]]), flush=True)


def machine() -> str:
    """Describe this computer in a line: processor, cores, memory, kernel, and how busy others keep it."""
    model = "unknown processor"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    load = os.getloadavg()[2]
    cores = len(os.sched_getaffinity(0))
    return f"{model}, {cores} processors, {memory:.0f} GiB, Linux {platform.release()}, load of 15 minutes {load:.1f}"


def timed(work: Callable[[], _T]) -> tuple[float, _T]:
    """Do something; gives the seconds on the wall clock and its result."""
    started = time.monotonic()
    result = work()
    return time.monotonic() - started, result


def best(seconds: Sequence[float]) -> str:
    """Write the best of some times, with the others behind it: noise only ever adds."""
    others = ", ".join(f"{one:.1f}" for one in sorted(seconds)[1:])
    return f"{min(seconds):.1f} s" + (f" ({others})" if others else "")


def megabytes(size: float) -> str:
    """Write bytes as MB."""
    return f"{size / 10**6:.0f} MB"
