"""The queue's service with a clock that a test sets: `python -m tests.network.clocked_service OFFSET OPTION…`.

OFFSET is a file with the seconds by which the clock is ahead. All else is the service itself.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from relay import service, watch

_DEBIAN = "/usr/lib/python3/dist-packages"
"""Where python3-spf is; behind the environment's own libraries."""


class _Clock:
    def __init__(self, offset: Path) -> None:
        self._offset = offset

    def time(self) -> float:
        return time.time() + float(self._offset.read_text(encoding="utf-8"))


def main() -> int:
    """Run until SIGTERM."""
    sys.path.append(_DEBIAN)
    vars(service)["time"] = _Clock(Path(sys.argv[1]))
    vars(watch)["SECONDS"] = 0.2
    return service.main(sys.argv[2:])


if __name__ == "__main__":
    sys.exit(main())
