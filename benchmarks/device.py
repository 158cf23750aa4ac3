"""A device in the emulator: how long it takes until mail is taken, and what memory it holds when it is idle.

Emulated seconds say little about a PC; the ratio does: the peer is the same start until a shell is on the console, as
any Debian would have it.
"""

from __future__ import annotations

import subprocess
import tempfile
import threading
import time
from pathlib import Path

from builder.build import SOURCE
from tests.images.machine import Machine

_IDLE_TARGET = 600
_PSS = "cat /proc/[0-9]*/smaps_rollup 2>/dev/null | awk '/^Pss:/ { sum += $2 } END { print sum }'"


def main() -> None:
    """Start a device twice, and print a table in Markdown."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["./darkpipe", "--yes", "build", "examples/home.yaml", "--output", folder]
        built = subprocess.run(
            command, cwd=SOURCE, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True, check=True
        )
        device = Machine(Path(built.stdout.splitlines()[-1]), Path(folder, "home.img"))
        try:
            starts = [("first start", *_start(device))]
            device.off()
            starts.append(("later start", *_start(device)))
            time.sleep(60)  # until whatever a start has left to do is done
            memory = int(device.lines(_PSS)[0]) / 1024
        finally:
            device.cut_power()
    print("| what | until a shell | until SMTP answers | ratio |")
    print("|---|---|---|---|")
    for name, shell, smtp in starts:
        print(f"| {name} | {shell:.0f} s | {smtp:.0f} s | {smtp / shell:.2f} |")
    print(f"\nAll processes of the idle device together hold {memory:.0f} MiB (target: ≤ {_IDLE_TARGET}).")


def _start(device: Machine) -> tuple[float, float]:
    """Give the seconds until the console has a shell, and until Postfix greets."""
    started = time.monotonic()
    smtp: list[float] = []

    def wait() -> None:
        device.wait_for_smtp()
        smtp.append(time.monotonic() - started)

    device.boot()
    waiting = threading.Thread(target=wait, daemon=True)
    waiting.start()
    device.shell()
    shell = time.monotonic() - started
    waiting.join()
    device.up()
    return shell, smtp[0]


if __name__ == "__main__":
    main()
