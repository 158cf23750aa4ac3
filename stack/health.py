"""The health of the Stack: every service asked for what it is there for, all at once and within a deadline."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

from stack.component import Health, Service
from stack.probes import PATIENCE, ProbeError, probe
from stack.stack import Stack

DEADLINE = 1.5 * PATIENCE
"""Seconds for all probes together; one that gets its answer drop by drop is given up then."""


@dataclass(frozen=True)
class Finding:
    """What one probe has found.

    Args:
        text: what the service did, or what was expected of it and what it did instead.
    """

    service: Service
    health: Health
    good: bool
    text: str


def examine(stack: Stack, patience: float = PATIENCE, deadline: float = DEADLINE) -> tuple[Finding, ...]:
    """Ask every service; nothing is left behind but a line in its log.

    Args:
        patience: seconds for each answer.
        deadline: seconds for all of it.

    Returns:
        The findings, in the order of the Stack.
    """
    asked = [(service, health) for service in stack.services for health in service.health]
    found: dict[int, Finding] = {}

    def ask(number: int, service: Service, health: Health) -> None:
        try:
            found[number] = Finding(service, health, True, probe(health.probe, health.target, patience))
        except ProbeError as error:
            found[number] = Finding(service, health, False, str(error))

    # Daemons: neither this function nor the end of the program waits for whoever does not answer.
    threads = [threading.Thread(target=ask, args=(number, *pair), daemon=True) for number, pair in enumerate(asked)]
    for thread in threads:
        thread.start()
    end = time.monotonic() + deadline
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    late = f"not done within {deadline:.0f} s"
    return tuple(
        found.get(number) or Finding(service, health, False, f"{health.target}: {late}")
        for number, (service, health) in enumerate(asked)
    )
