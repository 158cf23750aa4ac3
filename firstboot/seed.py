"""The seed: what a person has put on the boot partition, Site and home's end of the tunnel, taken over once and wiped.

The order makes every step safe to be cut off: each file is durable on `data` before that of the seed is touched, and
from then on whatever is left of it is only wiped.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path, PurePosixPath

from pydantic import ValidationError

from firstboot.partitions import system_disk
from firstboot.wipe import wipe
from model.document import SEED_NAME, read_site
from model.mtls import read_home_end
from model.tunnel import HOME_FILE
from stack.durable import partial_of, write_atomically

_COMMAND_LINE = Path("/proc/cmdline")
_MOUNT_POINT = Path("/boot")

_MISNAMED = frozenset(
    f"{name}{ending}" for name in ("darkpipe", "site") for ending in (".yaml", ".yml", ".yaml.txt", ".yml.txt", ".txt")
) - {SEED_NAME}


class Taken(StrEnum):
    """What became of the seed."""

    NONE = "there was no seed"
    TAKEN = "the seed was taken over and wiped"
    LEFTOVER = "this device is set up already: a seed on the boot partition was wiped unread"


class SeedError(Exception):
    """The boot partition cannot be used; the text says what was found."""


def find_boot_partition(command_line: str) -> Path | None:
    """Find the boot partition of the disk that the system was started from; another disk's is none of our business.

    Returns:
        Its device, or None on a machine that has no disk of ours (a container, for instance).

    Raises:
        DiskError: the disk has gone.
    """
    if "darkpipe.root=" not in command_line:
        return None
    disk = system_disk()
    return disk.partition(disk.layout.boot)


@contextmanager
def boot_partition(mount_point: Path = _MOUNT_POINT, *, writable: bool = True) -> Iterator[Path | None]:
    """Give the folder where the boot partition is mounted; it is mounted for as long as it takes when it is not.

    Args:
        writable: whether it is mounted so.

    Yields:
        The folder, or None on a machine without a boot partition.

    Raises:
        SeedError: it cannot be mounted.
        DiskError: the disk has gone.
    """
    if is_mounted(mount_point):
        yield mount_point
    elif (partition := find_boot_partition(_COMMAND_LINE.read_text())) is None:
        yield None
    else:
        options = f"{'rw' if writable else 'ro'},nosuid,nodev,noexec,umask=0077"
        _run("mount", "--types", "vfat", "--options", options, str(partition), str(mount_point))
        try:
            yield mount_point
        finally:
            _run("umount", str(mount_point))


def misnamed_seeds(boot: Path) -> tuple[str, ...]:
    """Give the names of files on the boot partition that were likely meant to be the seed, in alphabetical order.

    Notepad, for one, puts `.txt` behind a name, and Windows then shows it without.
    """
    return tuple(sorted(path.name for path in boot.iterdir() if path.is_file() and path.name.lower() in _MISNAMED))


def wipe_partial(boot: Path) -> None:
    """Wipe what a power cut has left of a seed that the device was writing itself (`firstboot/door.py`).

    Args:
        boot: folder with the boot partition.

    Raises:
        OSError: the partition fails.
    """
    if (partial := partial_of(boot / SEED_NAME)).is_file():
        wipe(partial)


def take_seed(boot: Path, site: Path) -> Taken:
    """Move the seed from the boot partition to where the Site is kept.

    Args:
        boot: folder with the boot partition.
        site: file that holds the Site from then on.

    Raises:
        model.document.SiteError: the seed is no valid Site; it stays where it is, to be mended.
    """
    return _take(boot / SEED_NAME, site, read_site)


def take_tunnel(boot: Path, kept: Path) -> Taken:
    """Move home's end of the tunnel from the boot partition to where it is kept.

    Args:
        boot: folder with the boot partition.
        kept: file that holds it from then on.

    Raises:
        SeedError: it is not what `./darkpipe build` has written; it stays where it is.
    """
    return _take(boot / HOME_FILE, kept, _check_tunnel)


def _check_tunnel(seed: Path) -> None:
    try:
        read_home_end(seed.read_bytes())
    except ValidationError as error:
        found = error.errors()[0]
        raise SeedError(
            f"{HOME_FILE} on the boot partition is damaged: {'.'.join(map(str, found['loc']))}: {found['msg']}. "
            "Write the image anew, or take the file away and go without a relay."
        ) from None


def _take(seed: Path, kept: Path, check: Callable[[Path], object]) -> Taken:
    if not seed.is_file():
        return Taken.NONE
    if kept.exists():
        # Either a power cut came between the two steps below, or somebody wants to change a device that has its own
        # accounts or tunnel by now. Neither is a reason to leave secrets on an unencrypted partition.
        wipe(seed)
        return Taken.LEFTOVER
    check(seed)
    write_atomically(kept, seed.read_bytes(), 0o600)
    wipe(seed)
    return Taken.TAKEN


def is_mounted(path: Path, mountinfo: str | None = None) -> bool:
    """Find out whether something else than the folder itself is there; ReadWritePaths= mounts a folder on itself."""
    # Path.is_mount() overlooks a folder that is bind-mounted within its own file system, as containers do.
    rows = (mountinfo or Path("/proc/self/mountinfo").read_text()).splitlines()
    # Fields 3 to 5 of proc_pid_mountinfo(5): device, folder in its file system, mount point. The last mount shows.
    mounts = {point: (device, folder) for _, _, device, folder, point, *_ in map(str.split, rows)}
    device, folder = mounts["/"]
    itself = (device, str(PurePosixPath(folder) / path.relative_to("/")))
    return mounts.get(str(path), itself) != itself


def _run(*argv: str) -> None:
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode != 0:
        raise SeedError(f"{' '.join(argv)} failed: {done.stdout.strip()}")
