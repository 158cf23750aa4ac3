"""What one guess of the data disk's passphrase costs: set by the device's memory, never measured."""

from __future__ import annotations

import re
from dataclasses import dataclass

_LEAST_MEMORY, _MOST_MEMORY = 64 * 1024, 512 * 1024
_PASSES = 4
_MOST_LANES = 4


@dataclass(frozen=True)
class Costs:
    """What one guess of a passphrase costs (argon2id, RFC 9106).

    Args:
        memory: in KiB.
        passes: over that memory.
        lanes: computed at once.
    """

    memory: int
    passes: int
    lanes: int


def choose_costs(meminfo: str, processors: int) -> Costs:
    """Set the costs by the device, never by a measurement: a first start on a slow day must not make a weak disk.

    A quarter of the memory, so that the device can always unlock it, and never more than 512 MiB, so that a smaller one
    can that the disk is plugged into one day. Four passes over 64 MiB are the least (RFC 9106 §4 takes three for that).

    Args:
        meminfo: the text of /proc/meminfo (proc_meminfo(5)).
    """
    found = re.search(r"^MemTotal:\s+(\d+) kB$", meminfo, re.MULTILINE)
    memory = int(found[1]) // 4 if found else 0
    return Costs(max(_LEAST_MEMORY, min(memory, _MOST_MEMORY)), _PASSES, max(1, min(processors, _MOST_LANES)))


def argon2id(costs: Costs) -> tuple[str, ...]:
    """Give the options of cryptsetup-luksAddKey(8) for these costs."""
    cost = ("--pbkdf-memory", str(costs.memory), "--pbkdf-force-iterations", str(costs.passes))
    return ("--pbkdf", "argon2id", *cost, "--pbkdf-parallel", str(costs.lanes))
