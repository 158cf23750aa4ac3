"""From power to "SMTP answers", and the memory that an idle device takes, against a plain Debian with Postfix.

Both run in the same emulated PC, one after the other. Where there is no KVM, QEMU translates every instruction, and a
second tells little by itself; the ratio still does.
"""

from __future__ import annotations

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pexpect

from benchmarks.kit import mkosi
from benchmarks.kit.report import Row, megabytes, show
from builder.archive import Archive
from builder.build import SOURCE
from builder.cache import Cache
from builder.emulator import kvm_works
from builder.errors import BuildError
from builder.progress import Stages
from builder.sandbox import check_namespaces, remove_tree
from builder.tools import EMULATOR, open_tools
from tests.images.machine import Machine

_HANDED_OVER = "BdsDxe: starting"
"""The firmware's last words: it hands over to the boot loader."""

_SETTLED = 2 * 2**20
"""Bytes by which the memory in use may differ between two looks at an idle machine."""

_PAUSE = 15
"""Seconds between the two."""

_IDLE_TIMEOUT = 600.0

_USED = "awk '/^MemTotal:/ { t = $2 } /^MemAvailable:/ { a = $2 } END { print t - a }' /proc/meminfo"
_SHARES = "cat /proc/[0-9]*/smaps_rollup 2>/dev/null | awk '/^Pss:/ { s += $2 } END { print s }'"


@dataclass
class _Measured:
    """What one machine has shown.

    Args:
        starts: seconds from the boot loader to the greeting on port 25, first start first.
        used: bytes of memory that are not available, when idle.
        shares: bytes of all processes together, shared pages counted once (proc_pid_smaps(5), Pss).
    """

    starts: list[float] = field(default_factory=list)
    used: int = 0
    shares: int = 0


def main() -> None:
    """Measure and print a table."""
    check_namespaces()
    cache = Cache(Cache.default().root, remove_tree)
    stages = Stages()
    archive = Archive.from_environment()
    emulator = open_tools(EMULATOR, cache, archive, stages)
    with cache.workspace() as work:
        accelerated = kvm_works(emulator, work)
        with stages.stage("Build the x64 image"):
            ours = Machine(_build(work / "out"), work / "device.img")
        with stages.stage("Build a plain Debian with Postfix"):
            theirs = _plain_debian(cache, archive, stages, work / "plain")
        with stages.stage("Start, stop and start the plain Debian"):
            plain = _measure(theirs)
        with stages.stage("Start, stop and start the device"):
            device = _measure(ours)
    print("KVM runs the machines." if accelerated else "There is no KVM here: QEMU emulates the processor (TCG).")
    show(_rows(device, plain))


def _build(output: Path) -> Path:
    command = [str(SOURCE / "darkpipe"), "build", str(SOURCE / "examples/home.yaml"), "--output", str(output)]
    built = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, check=False)
    if built.returncode:
        raise BuildError("the image could not be built", "its messages are above")
    return Path(built.stdout.splitlines()[-1])


def _plain_debian(cache: Cache, archive: Archive, stages: Stages, folder: Path) -> Machine:
    sandbox = mkosi.open_mkosi(cache, archive, stages)
    folder.mkdir()
    scratch = folder.with_name("scratch")
    scratch.mkdir()
    mkosi.prepare(sandbox, "plain-debian", folder)
    mkosi.build(sandbox, folder, scratch)
    # A machine whose disk is there already starts from that.
    return Machine(folder, folder / "image.raw")


def _measure(machine: Machine) -> _Measured:
    measured = _Measured()
    try:
        for _ in range(2):
            measured.starts.append(_start(machine))
            used = _number(machine, _USED)
            deadline = time.monotonic() + _IDLE_TIMEOUT
            while time.monotonic() < deadline:
                time.sleep(_PAUSE)
                before, used = used, _number(machine, _USED)
                if abs(used - before) < _SETTLED:
                    break
            measured.used, measured.shares = used, _number(machine, _SHARES)
            machine.off()
    finally:
        machine.cut_power()
    return measured


def _start(machine: Machine) -> float:
    """Start a machine and wait until all of it is up; gives the seconds to its greeting."""
    machine.boot()
    machine.expect([_HANDED_OVER], 120)
    started = time.monotonic()

    def greeted() -> float:
        machine.wait_for_smtp()
        return time.monotonic() - started

    # The console is read meanwhile: a machine whose console nobody reads comes to a stand.
    with ThreadPoolExecutor(1) as pool:
        seconds = pool.submit(greeted)
        machine.up()
        return seconds.result()


def _number(machine: Machine, script: str) -> int:
    """Run a script that prints a number of KiB; gives bytes."""
    return int(machine.lines(script)[-1]) * 1024


def _rows(device: _Measured, plain: _Measured) -> list[Row]:
    peer = "of plain Debian"
    return [
        Row("plain Debian: first start to SMTP", f"{plain.starts[0]:.0f} s"),
        Row("plain Debian: second start to SMTP", f"{plain.starts[1]:.0f} s"),
        Row("first start to SMTP", f"{device.starts[0]:.0f} s", f"{device.starts[0] / plain.starts[0]:.2f} {peer}"),
        Row("second start to SMTP", f"{device.starts[1]:.0f} s", f"{device.starts[1] / plain.starts[1]:.2f} {peer}"),
        Row("plain Debian, idle: memory not available", megabytes(plain.used)),
        Row("plain Debian, idle: all processes", megabytes(plain.shares)),
        Row("idle: memory not available", megabytes(device.used), "", "≤ 600 MB"),
        Row("idle: all processes", megabytes(device.shares), "", "≤ 600 MB"),
    ]


if __name__ == "__main__":
    try:
        main()
    except pexpect.ExceptionPexpect as error:
        sys.exit(f"Error: a machine's console did not show what was expected:\n{error}")
    except BuildError as error:
        sys.exit(f"Error: {error}" + (f"\nHint: {error.hint}" if error.hint else ""))
