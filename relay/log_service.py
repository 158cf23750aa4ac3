"""The log of Postfix: takes its lines at a socket of its own, redacts them, and passes them on to journald.

systemd holds the socket (systemd.socket(5)), and Postfix's unit finds it in the place of the journal's.
"""

from __future__ import annotations

import socket
import sys
from contextlib import suppress
from pathlib import Path

from relay.redaction import redact

_JOURNAL = Path("/run/systemd/journal/dev-log")
_FIRST = 3
"""The first descriptor that systemd hands over (sd_listen_fds(3))."""

_LONGEST = 64 * 1024


def main() -> int:
    """Serve until somebody ends it."""
    with socket.socket(fileno=_FIRST) as lines, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        pass_on(lines, journal, _JOURNAL)
    return 0


def pass_on(lines: socket.socket, journal: socket.socket, place: Path) -> None:
    """Pass on redacted lines until an empty one comes.

    Args:
        place: of the journal's socket.
    """
    while octets := lines.recv(_LONGEST):
        redacted = redact(octets.decode("utf-8", "replace").rstrip("\n\0"))
        # A journal that does not listen costs a line, and no mail.
        with suppress(OSError):
            journal.sendto(redacted.encode(), str(place))


if __name__ == "__main__":
    sys.exit(main())
