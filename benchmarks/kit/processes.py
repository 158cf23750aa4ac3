"""What running programs take."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def memory(pid: int) -> int:
    """Give the octets that a process and its children have in memory, shared pages once (proc(5), Pss)."""
    return sum(map(_pss, _family(pid)))


def _family(pid: int) -> Sequence[int]:
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += _family(int(child))
    return [pid, *found]


def _pss(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
