"""Why OpenVPN has no tunnel: what its log says, in words that tell what to do."""

from __future__ import annotations

from collections.abc import Iterable

_REASONS = (
    (
        ("certificate hash verification failed", "X509NAME ERROR", "VERIFY EKU ERROR", "VERIFY KU ERROR"),
        (
            "{relay} shows another certificate than this device was set up with: its user-data are of another home, or "
            "somebody has taken its place. Make it anew from the user-data that belong to this device"
        ),
    ),
    (
        ("Connection refused",),
        "{relay} refuses connections: no relay whose transport is mtls runs there",
    ),
    (
        ("Bad encapsulated packet length",),
        "at {relay} answers something that is no OpenVPN: it is no relay, or one whose transport is not mtls",
    ),
    (
        ("Connection reset",),
        "{relay} takes connections and ends them: its user-data are of another home, or its transport is not mtls",
    ),
    (
        ("timed out", "TLS key negotiation failed", "No route to host", "Network is unreachable"),
        "{relay} does not answer: it is off, or a firewall on the way drops TCP to its ports 1194 and 443",
    ),
)


def reason(log: Iterable[str], relay: str) -> str | None:
    """Find why there is no tunnel; None when nothing in the log is known to be a reason.

    Args:
        log: OpenVPN's latest lines, the oldest first. Of several reasons counts the first in the table above: two ports
            are tried, and a refused certificate says more than a closed port.
        relay: its name, for the text.
    """
    lines = list(log)
    for marks, text in _REASONS:
        if any(mark in line for line in lines for mark in marks):
            return text.format(relay=relay)
    return None
