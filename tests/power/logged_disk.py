"""A disk of this computer's own kernel whose writes and flushes are logged, as QEMU does it for an emulated machine.

qemu-storage-daemon(1) shows a file whose writes it logs (`write_log.py`) through FUSE, and a loop device makes a disk
of it: what a file system flushes reaches the log as a flush.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.machine.writes import wrap

SECTOR = 512
_SECONDS = 20.0


def lacking() -> str | None:
    """Say what this computer lacks for it; None when nothing."""
    missing = [path for path in ("/dev/fuse", "/dev/loop-control") if not Path(path).exists()]
    if missing:
        return f"missing: {' '.join(missing)}"
    if shutil.which("modprobe"):
        subprocess.run(["modprobe", "--quiet", "btrfs"], check=False)  # it may be built in
    known = Path("/proc/filesystems").read_text(encoding="ascii").split()
    return None if "btrfs" in known else "this computer's kernel has no btrfs"


@contextmanager
def attached(file: Path) -> Iterator[Path]:
    """Give a loop device with the content of a file."""
    command = ("losetup", "--find", "--show", f"--sector-size={SECTOR}", str(file))
    device = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    try:
        yield Path(device)
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)


@contextmanager
def logged(tools: Path, disk: Path, log: Path) -> Iterator[Path]:
    """Give a loop device with the content of a file, and log what is written to it.

    Args:
        tools: an unpacked system that has QEMU.
        log: a file that is made; it is whole when the device is gone.
    """
    folder = log.parent / f"{log.name}.d"
    folder.mkdir()
    seen = folder / "disk"
    seen.touch()
    log.touch()
    nodes = (
        f"driver=file,node-name=disk-file,filename={disk},cache.no-flush=on",
        f"driver=file,node-name=log-file,filename={log},cache.no-flush=on",
        "driver=raw,node-name=plain,file=disk-file",
        f"driver=blklogwrites,node-name=disk,file=plain,log=log-file,log-sector-size={SECTOR}",
    )
    export = f"type=fuse,id=disk,node-name=disk,mountpoint={seen},writable=on"
    blocks = [word for node in nodes for word in ("--blockdev", node)]
    daemon = subprocess.Popen([str(wrap(tools, "usr/bin/qemu-storage-daemon", folder)), *blocks, "--export", export])
    try:
        _wait_until_shown(seen, daemon)
        with attached(seen) as device:
            yield device
    finally:
        daemon.terminate()
        daemon.wait(_SECONDS)


def _wait_until_shown(seen: Path, daemon: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + _SECONDS
    while not os.path.ismount(seen):
        assert daemon.poll() is None, "qemu-storage-daemon has ended"
        assert time.monotonic() < end, "qemu-storage-daemon shows no disk"
        time.sleep(0.05)
