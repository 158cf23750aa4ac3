"""Why OpenVPN has no tunnel: what its log says, in words that tell what to do."""

from __future__ import annotations

from collections.abc import Iterable

_REASONS = (
    (
        ("certificate hash verification failed", "X509NAME ERROR", "VERIFY EKU ERROR", "VERIFY KU ERROR"),
        (
            "{relay} shows another certificate than this device knows. Either another home has claimed it with the "
            "same user-data; or a device that was restored from a backup of this one has taken this one's place; or "
            "it was built anew, which `darkpipe pair --again` finds out; or it was put back to an old snapshot, and "
            "has to be built anew from its user-data"
        ),
    ),
    (
        ("Connection refused",),
        (
            "{relay} refuses connections to its TCP ports 1194 and 443: no relay whose transport is mtls runs there, "
            "or a firewall on the way forbids them"
        ),
    ),
    (
        ("Bad encapsulated packet length",),
        (
            "at {relay} answers something that is no OpenVPN: it is no relay, or one whose transport is not mtls, or a "
            "proxy on the way answers in its place"
        ),
    ),
    (
        ("Connection reset",),
        (
            "{relay} takes connections and ends them: it was made from other or older user-data than this device, or "
            "its transport is not mtls, or a network on the way blocks OpenVPN"
        ),
    ),
    (
        ("timed out", "TLS key negotiation failed", "No route to host", "Network is unreachable"),
        "{relay} does not answer: it is off, or a firewall on the way drops TCP to its ports 1194 and 443",
    ),
)


_UP = "Initialization Sequence Completed"


def reason(log: Iterable[str], relay: str) -> str | None:
    """Find why there is no tunnel; None when nothing in the log is known to be a reason.

    Args:
        log: OpenVPN's latest lines, the oldest first. What was before a tunnel that came up is over. Of several reasons
            counts the first in the table above: two ports are tried, and a refused certificate says more than a closed
            port.
        relay: its name, for the text.
    """
    lines: list[str] = []
    for line in log:
        lines = [] if _UP in line else [*lines, line]
    for marks, text in _REASONS:
        if any(mark in line for line in lines for mark in marks):
            return text.format(relay=relay)
    return None
