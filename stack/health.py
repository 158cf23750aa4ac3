"""The health of the Stack: every service asked for what it is there for, all at once and within a deadline."""

from __future__ import annotations

import time
from dataclasses import dataclass

from stack.component import Health, Service
from stack.pending import Late, begin
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


def examine(
    stack: Stack, patience: float = PATIENCE, deadline: float = DEADLINE, *, to_receive: bool = False
) -> tuple[Finding, ...]:
    """Ask every service; nothing is left behind but a line in its log.

    Args:
        patience: seconds for each answer.
        deadline: seconds for all of it.
        to_receive: whether only that is asked without which no mail can be received.

    Returns:
        The findings, in the order of the Stack.
    """
    end = time.monotonic() + deadline
    asked = [
        (service, health, begin(probe, health.probe, health.target, patience))
        for service in stack.services
        for health in service.health
        if health.to_receive or not to_receive
    ]
    findings = []
    for service, health, pending in asked:
        try:
            good, text = True, pending.result(end)
        except ProbeError as error:
            good, text = False, str(error)
        except Late:
            good, text = False, f"{health.target}: not done within {deadline:.0f} s"
        findings.append(Finding(service, health, good, text))
    return tuple(findings)
