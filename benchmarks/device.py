"""A device in the emulator: from power to "SMTP answers", and the memory that it takes when it is idle.

Emulated seconds say little about a PC, the ratio does: the peer is the same start until a shell is on the console,
which any Debian has to get to.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pexpect

from benchmarks.kit.report import Row, megabytes, show
from builder.build import SOURCE
from builder.errors import BuildError
from tests.images.machine import Machine

_PAUSE = 60
"""Seconds until whatever a start has left to do is done."""

_USED = "awk '/^MemTotal:/ { t = $2 } /^MemAvailable:/ { a = $2 } END { print t - a }' /proc/meminfo"
_SHARES = "cat /proc/[0-9]*/smaps_rollup 2>/dev/null | awk '/^Pss:/ { s += $2 } END { print s }'"


def main() -> None:
    """Start a device twice, and print a table."""
    with tempfile.TemporaryDirectory() as folder:
        device = Machine(_build(Path(folder, "out")), Path(folder, "home.img"))
        try:
            starts = [("first start", *_start(device))]
            device.off()
            starts.append(("later start", *_start(device)))
            time.sleep(_PAUSE)
            used, shares = (int(device.lines(script)[-1]) * 1024 for script in (_USED, _SHARES))
        finally:
            device.cut_power()
    rows = [Row(f"{name}, to a shell", f"{shell:.0f} s") for name, shell, _ in starts]
    rows += [Row(f"{name}, to SMTP", f"{smtp:.0f} s", f"{smtp / shell:.2f} of that") for name, shell, smtp in starts]
    rows += [
        Row("idle: memory not available to others", megabytes(used), "", "≤ 600 MB"),
        Row("idle: all processes, shared pages once", megabytes(shares)),
    ]
    show(rows)


def _build(output: Path) -> Path:
    command = ["./darkpipe", "build", "examples/home.yaml", "--output", str(output)]
    built = subprocess.run(
        command, cwd=SOURCE, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, check=False
    )
    if built.returncode:
        raise BuildError("the image could not be built", "its messages are above")
    return Path(built.stdout.splitlines()[-1])


def _start(device: Machine) -> tuple[float, float]:
    """Give the seconds until the console has a shell, and until Postfix greets."""
    started = time.monotonic()
    device.boot()

    def greeted() -> float:
        device.wait_for_smtp()
        return time.monotonic() - started

    # The console is read meanwhile: a machine whose console nobody reads comes to a stand.
    with ThreadPoolExecutor(1) as pool:
        smtp = pool.submit(greeted)
        device.shell()
        shell = time.monotonic() - started
        device.up()
        return shell, smtp.result()


if __name__ == "__main__":
    try:
        main()
    except pexpect.ExceptionPexpect as error:
        sys.exit(f"Error: the device's console did not show what was expected:\n{error}")
    except BuildError as error:
        sys.exit(f"Error: {error}" + (f"\nHint: {error.hint}" if error.hint else ""))
