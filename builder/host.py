"""What the user's computer offers to a build: facts only, read or tried out; `builder.doctor` judges them."""

from __future__ import annotations

import os
import platform
import pwd
import re
import shutil
import tempfile
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from builder.archive import SUITE, Archive, last_state
from builder.cache import Cache
from builder.emulator import kvm_works
from builder.errors import BuildError, ToolError
from builder.foreign import host_handler_works, private_handlers_fail
from builder.run import run
from builder.sandbox import Sandbox, available_memory, namespace_command
from builder.tools import EMULATOR, host_architecture, newest_tools
from builder.where import distribution

SETTINGS = (
    "kernel/unprivileged_userns_clone",
    "kernel/apparmor_restrict_unprivileged_userns",
    "user/max_user_namespaces",
)
"""Files below /proc/sys that can forbid user namespaces to an ordinary user."""

PROGRAMS = ("mmdebstrap", "gpg", "mount", "unshare")
_USER_PROGRAMS = ("newuidmap", "newgidmap")
_SBIN = ("/usr/local/sbin", "/usr/sbin", "/sbin")

ENTER_TREE = """
PATH=/usr/sbin:/usr/bin:/sbin:/bin
mount -t tmpfs tmpfs /mnt && mkdir /mnt/proc && mount -t proc proc /mnt/proc && cd /mnt && mount -n --move . /
"""
"""Shell: what builder/sandbox.sh does, without a tools tree."""


class Kvm(StrEnum):
    """How far /dev/kvm can be used."""

    ABSENT = "absent"
    REFUSED = "refused"
    OPENS = "opens"
    BROKEN = "broken"
    WORKS = "works"


@dataclass(frozen=True)
class Host:
    """A computer as a build sees it.

    Args:
        user: its login name.
        uid: 0 for root.
        distribution: ID and ID_LIKE of os-release(5), as words.
        machine: the kernel's name of the processor, such as `x86_64`.
        kernel: the first two numbers of its version.
        capabilities: the effective set (capabilities(7)) as bits.
        seccomp: whether a seccomp filter is on us, as container engines set one.
        apparmor: the profile that confines us; empty for none.
        container: what the container is, as far as it shows; empty outside.
        settings: those of SETTINGS that the kernel has.
        subordinate: ids that the user owns in /etc/subuid and /etc/subgid (subuid(5)).
        missing: programs that are not installed.
        namespaces: why a tools tree cannot be entered; empty when it can.
        binfmt: why a user namespace of ours cannot have binfmt_misc handlers of its own; empty when it can.
        host_handler: whether the computer has a handler for arm64 programs that works in other roots.
        folders: folders that a build writes, each with the bytes that are free there.
        memory: bytes that are available.
        processors: how many we may use.
        speed_seconds: what a fixed piece of work takes on one processor.
        archive: why the package archive does not answer; empty when it does.
        kvm: for `./darkpipe boot`.
        has_tools: whether the build tools are installed.
        layer_age: seconds since the last look at the archive; None when there is no package layer in the cache.
    """

    user: str
    uid: int
    distribution: str
    machine: str
    kernel: tuple[int, int]
    capabilities: int
    seccomp: bool
    apparmor: str
    container: str
    settings: Mapping[str, int]
    subordinate: Mapping[str, int]
    missing: tuple[str, ...]
    namespaces: str
    binfmt: str
    host_handler: bool
    folders: Mapping[Path, int]
    memory: int
    processors: int
    speed_seconds: float
    archive: str
    kvm: Kvm
    has_tools: bool
    layer_age: float | None


def read_host(cache: Cache, archive: Archive, output: Path) -> Host:
    """Look at this computer; the trials take a few seconds, the archive's the longest.

    Args:
        output: the folder that results go to; it need not be there.
    """
    status = _status()
    user = _user()
    return Host(
        user=user,
        uid=os.geteuid(),
        distribution=distribution(),
        machine=platform.machine(),
        kernel=_kernel(platform.release()),
        capabilities=int(status.get("CapEff", "0"), 16),
        seccomp=status.get("Seccomp", "0") != "0",
        apparmor=_apparmor(),
        container=_container(),
        settings=_settings(),
        subordinate={name: subordinate_ids(Path("/etc") / name, user, os.geteuid()) for name in ("subuid", "subgid")},
        missing=_missing(),
        namespaces=_trial([*namespace_command(), "--", "sh", "-c", ENTER_TREE]),
        binfmt=private_handlers_fail(),
        host_handler=host_handler_works(),
        folders={folder: _free(folder) for folder in (cache.root, output.absolute())},
        memory=available_memory(),
        processors=len(os.sched_getaffinity(0)),
        speed_seconds=_speed(),
        archive=_ask_archive(archive),
        kvm=_kvm(cache, archive),
        has_tools=any((cache.root / "tools").glob("*")),
        layer_age=_layer_age(cache, archive),
    )


def subordinate_ids(path: Path, user: str, uid: int) -> int:
    """Give the size of the largest block of ids that a user owns in a file like /etc/subuid; 0 when there is none."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return 0
    rows = (line.split(":") for line in lines)
    return max(
        (int(row[2]) for row in rows if len(row) == 3 and row[0] in {user, str(uid)} and row[2].isdecimal()), default=0
    )


def _user() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:  # a container may run under a uid that nobody has named
        return str(os.geteuid())


def _status() -> dict[str, str]:
    rows = (line.partition(":") for line in Path("/proc/self/status").read_text().splitlines())
    return {name: value.strip() for name, _, value in rows}


def _kernel(release: str) -> tuple[int, int]:
    match = re.match(r"(\d+)\.(\d+)", release)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def _apparmor() -> str:
    for name in ("apparmor/current", "current"):
        try:
            profile = Path("/proc/self/attr", name).read_text().strip("\0\n ")
        except OSError:  # no AppArmor in this kernel
            continue
        return "" if profile == "unconfined" else profile
    return ""


def _container() -> str:
    if Path("/run/.containerenv").exists():
        return "podman"
    if Path("/.dockerenv").exists():
        return "docker"
    try:
        return Path("/run/systemd/container").read_text().strip()
    except OSError:
        return ""


def _settings() -> dict[str, int]:
    found = {}
    for name in SETTINGS:
        try:
            found[name] = int(Path("/proc/sys", name).read_text())
        except (OSError, ValueError):  # the setting of another distribution's kernel
            continue
    return found


def _missing() -> tuple[str, ...]:
    wanted = PROGRAMS if os.geteuid() == 0 else (*PROGRAMS, *_USER_PROGRAMS)
    path = os.pathsep.join((os.environ.get("PATH", os.defpath), *_SBIN))
    return tuple(name for name in wanted if shutil.which(name, path=path) is None)


def _trial(argv: list[str]) -> str:
    try:
        run(argv)
    except ToolError as error:
        return error.output or f"exit status {error.status}"
    except BuildError as error:
        return str(error)
    return ""


def _free(folder: Path) -> int:
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def _speed() -> float:
    text = b"".join(str(number * number).encode() for number in range(400_000))
    started = time.perf_counter()
    zlib.compress(text, 9)
    return time.perf_counter() - started


def _ask_archive(archive: Archive) -> str:
    """Let apt fetch and verify the package lists, as a build would, and install nothing."""
    # Nothing is installed, so that there is nothing of what mmdebstrap of Debian 13 warns root of.
    options = ("--simulate", "--mode=chrootless", "--skip=check/chrootless", "--variant=custom", "--format=null")
    patience = ('--aptopt=Acquire::http::Timeout "10"', '--aptopt=Acquire::Retries "0"')
    with tempfile.TemporaryDirectory() as scratch:
        argv = ["env", f"TMPDIR={scratch}", "mmdebstrap", *options, *patience, SUITE, "-", *archive.mirrors]
        output = _trial(argv)
    telling = [line for line in output.splitlines() if line.startswith("E: ")]
    return "\n".join(telling[:1]) or output


def _kvm(cache: Cache, archive: Archive) -> Kvm:
    device = Path("/dev/kvm")
    if not device.exists():
        return Kvm.ABSENT
    if not os.access(device, os.R_OK | os.W_OK):
        return Kvm.REFUSED
    tree = newest_tools(EMULATOR, cache, archive)
    if tree is None:
        return Kvm.OPENS
    try:
        with cache.workspace() as work:
            return Kvm.WORKS if kvm_works(Sandbox(tree.folder, cache.root), work) else Kvm.BROKEN
    except (BuildError, OSError):
        return Kvm.OPENS


def _layer_age(cache: Cache, archive: Archive) -> float | None:
    state = last_state(cache, archive, host_architecture())
    return time.time() - state.seen if state and any((cache.root / "packages").glob("*")) else None
