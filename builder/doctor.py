"""Judging whether a computer can build: each finding says what was found, and what to do about it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from builder.archive import FRESH
from builder.host import Host, Kvm

_SYS_ADMIN = 21
"""CAP_SYS_ADMIN's number (linux/capability.h)."""

_SUBORDINATE_IDS = 65536
"""As many as a Debian system uses."""

_MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}
_PRIVATE_BINFMT = (6, 7)
"""The first kernel whose user namespaces have binfmt_misc handlers of their own."""

_GB = 10**9
_ROOMY = 8 * _GB
_TIGHT = 4 * _GB
_MEMORY = 2 * _GB

# Measured on two cores, with the archive next door: a first build, and the speed of that machine.
_REFERENCE_SECONDS = {"tools": 24.0, "packages": 46.0, "rest": 10.0}
_REFERENCE_SPEED = 0.49
_REFERENCE_FOREIGN = 235.0
_REFERENCE_EMULATED = 640.0
_DOWNLOAD = 300 * 10**6

_PACKAGE_OF = {
    "mmdebstrap": "mmdebstrap",
    "gpg": "gpg",
    "mount": "mount",
    "unshare": "util-linux",
    "newuidmap": "uidmap",
    "newgidmap": "uidmap",
}


class Verdict(StrEnum):
    """How bad a finding is; a problem keeps a build from working."""

    FINE = "fine"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True)
class Finding:
    """One line of the doctor.

    Args:
        subject: what was looked at, a noun.
        found: what it is.
        remedy: what to do; empty for what is fine.
    """

    subject: str
    verdict: Verdict
    found: str
    remedy: str = ""


def examine(host: Host) -> tuple[Finding, ...]:
    """Judge everything, in the order in which a build would meet it."""
    return tuple(finding for check in _CHECKS for finding in check(host))


def _system(host: Host) -> Iterator[Finding]:
    name, architecture = host.distribution or "unknown", _MACHINES.get(host.machine)
    if architecture is None:
        found = f"the processor is {host.machine}; expected amd64 or arm64"
        yield Finding("system", Verdict.PROBLEM, found, "use another computer")
    elif {"debian", "ubuntu"} & set(host.distribution.split()):
        yield Finding("system", Verdict.FINE, f"{name.split()[0]} on {architecture}")
    else:
        remedy = "build on Debian 12 or 13, or in a container of it that is started with --cap-add SYS_ADMIN"
        yield Finding("system", Verdict.WARNING, f"the system is {name}, which is not like Debian", remedy)


def _programs(host: Host) -> Iterator[Finding]:
    if host.missing:
        packages = " ".join(sorted({_PACKAGE_OF[name] for name in host.missing}))
        found = f"not installed: {', '.join(host.missing)}"
        yield Finding("programs", Verdict.PROBLEM, found, f"sudo apt-get install {packages}")
    else:
        yield Finding("programs", Verdict.FINE, "all are installed")


def _namespaces(host: Host) -> Iterator[Finding]:
    """Tell first whether it works, and only if it does not, what may be the reason."""
    if not host.namespaces:
        how = "as root" if host.uid == 0 else "as an ordinary user"
        yield Finding("private namespaces", Verdict.FINE, f"can be made {how}")
        return
    causes = [*(_container_causes(host) if host.uid == 0 or host.container else ()), *_user_causes(host)]
    remedy = "see the next lines" if causes else "build as root on the computer itself, or in a virtual machine"
    yield Finding("private namespaces", Verdict.PROBLEM, f"cannot be made: {_short(host.namespaces)}", remedy)
    yield from causes


def _container_causes(host: Host) -> Iterator[Finding]:
    where = f"the {host.container} container" if host.container else "the container"
    if host.uid == 0 and not host.capabilities >> _SYS_ADMIN & 1:
        found = "root lacks the capability SYS_ADMIN, as in a container"
        yield Finding("capability SYS_ADMIN", Verdict.PROBLEM, found, f"start {where} with --cap-add SYS_ADMIN")
        return
    if host.seccomp:
        remedy = f"start {where} with --security-opt seccomp=unconfined"
        yield Finding("seccomp", Verdict.PROBLEM, "a filter of system calls is on us", remedy)
    if host.apparmor:
        remedy = f"start {where} with --security-opt apparmor=unconfined"
        yield Finding("AppArmor profile", Verdict.PROBLEM, f"we are confined by {host.apparmor}", remedy)


def _user_causes(host: Host) -> Iterator[Finding]:
    """User namespaces are what an ordinary user needs; root makes do without."""
    if host.uid == 0:
        return
    if host.settings.get("user/max_user_namespaces", 1) == 0:
        remedy = "sudo sysctl user.max_user_namespaces=10000; to keep it, write it to /etc/sysctl.d/"
        yield Finding("user namespaces", Verdict.PROBLEM, "user.max_user_namespaces is 0", remedy)
    if host.settings.get("kernel/unprivileged_userns_clone", 1) == 0:
        remedy = "sudo sysctl kernel.unprivileged_userns_clone=1; to keep it, write it to /etc/sysctl.d/"
        yield Finding("user namespaces", Verdict.PROBLEM, "kernel.unprivileged_userns_clone is 0", remedy)
    if host.settings.get("kernel/apparmor_restrict_unprivileged_userns", 0):
        remedy = "sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0, or build as root"
        found = "kernel.apparmor_restrict_unprivileged_userns is 1"
        yield Finding("user namespaces", Verdict.PROBLEM, found, remedy)


def _subordinate_ids(host: Host) -> Iterator[Finding]:
    if host.uid == 0:
        return
    short = {name: count for name, count in host.subordinate.items() if count < _SUBORDINATE_IDS}
    if short:
        files = " and ".join(f"/etc/{name}: {count}" for name, count in sorted(short.items()))
        options = " ".join(f"--add-{name}s 100000-165535" for name in sorted(short))
        remedy = f"sudo usermod {options} {host.user} (choose other numbers if another user has these)"
        found = f"{files} for {host.user}; expected {_SUBORDINATE_IDS} in one block"
        yield Finding("subordinate ids", Verdict.PROBLEM, found, remedy)
    else:
        yield Finding("subordinate ids", Verdict.FINE, f"{host.user} owns {_SUBORDINATE_IDS} or more")


def _raspberry_pi(host: Host) -> Iterator[Finding]:
    subject = "images for arm64"
    if _MACHINES.get(host.machine) == "arm64":
        yield Finding(subject, Verdict.FINE, "are this computer's own")
        return
    if not host.binfmt:
        found = f"a first build for the Raspberry Pi takes {_about(foreign_seconds(host))} (an estimate)"
        yield Finding(subject, Verdict.FINE, found)
        return
    soon = _about(foreign_seconds(host))
    if host.kernel < _PRIVATE_BINFMT:
        newer = f"a kernel of version {'.'.join(map(str, _PRIVATE_BINFMT))} or later makes it {soon}"
        why = f"this kernel ({'.'.join(map(str, host.kernel))}) has no private binfmt handlers ({_short(host.binfmt)})"
    else:  # the kernel has them: somebody forbids it, a setting or a container
        newer = f"user namespaces (sudo sysctl user.max_user_namespaces=10000; not in a container) make it {soon}"
        why = f"private binfmt handlers are refused to us ({_short(host.binfmt)})"
    if host.host_handler:
        found = f"{why}; a first build for the Raspberry Pi takes {_about(foreign_seconds(host, emulated=True))}"
        yield Finding(subject, Verdict.WARNING, found, newer)
        return
    remedy = (
        f"sudo apt-get install qemu-user-binfmt (on Debian 12: qemu-user-static); it then takes "
        f"{_about(foreign_seconds(host, emulated=True))}, and {newer}"
    )
    yield Finding(subject, Verdict.WARNING, f"{why}, and the computer no handler for arm64", remedy)


def _space(host: Host) -> Iterator[Finding]:
    for folder, free in host.folders.items():
        found = f"{folder}: {free / _GB:.1f} GB free"
        remedy = f"free some; a first build with everything needs about {_ROOMY // _GB} GB"
        if free >= _ROOMY:
            yield Finding("disk space", Verdict.FINE, found)
        else:
            yield Finding("disk space", Verdict.WARNING if free >= _TIGHT else Verdict.PROBLEM, found, remedy)


def _memory(host: Host) -> Iterator[Finding]:
    found = f"{host.memory / _GB:.1f} GB available"
    if host.memory >= _MEMORY:
        yield Finding("memory", Verdict.FINE, found)
    else:
        yield Finding("memory", Verdict.WARNING, found, f"end other programs; {_MEMORY // _GB} GB is comfortable")


def _archive(host: Host) -> Iterator[Finding]:
    if host.archive:
        remedy = "check network, proxy (http_proxy) and clock; $DARKPIPE_MIRROR names another mirror"
        found = f"does not answer: {_short(host.archive)}"
        yield Finding("Debian's archive", Verdict.PROBLEM, found, remedy)
    else:
        yield Finding("Debian's archive", Verdict.FINE, "answers, and its signature is good")


def _kvm(host: Host) -> Iterator[Finding]:
    slow = "(`./darkpipe boot` then emulates, which takes minutes instead of seconds; building does not need it)"
    match host.kvm:
        case Kvm.WORKS:
            yield Finding("virtual machines", Verdict.FINE, "KVM works")
        case Kvm.OPENS:
            yield Finding("virtual machines", Verdict.FINE, "/dev/kvm opens; the first `./darkpipe boot` will try it")
        case Kvm.BROKEN:
            remedy = f"switch on virtualisation in the firmware, or nested virtualisation in the host {slow}"
            yield Finding("virtual machines", Verdict.WARNING, "/dev/kvm opens, but runs no machine", remedy)
        case Kvm.REFUSED:
            remedy = f"sudo usermod -aG kvm {host.user}, and log in anew {slow}"
            yield Finding("virtual machines", Verdict.WARNING, "/dev/kvm is not ours to open", remedy)
        case Kvm.ABSENT:
            remedy = f"switch on virtualisation in the firmware; in a container, add --device /dev/kvm {slow}"
            yield Finding("virtual machines", Verdict.WARNING, "there is no /dev/kvm", remedy)


def _time(host: Host) -> Iterator[Finding]:
    seconds = expected_seconds(host)
    fetched = "" if _is_fresh(host) else f", and the download of up to {_DOWNLOAD // 10**6} MB"
    yield Finding("time", Verdict.FINE, f"the next build for x64 takes {_about(seconds)}{fetched} (an estimate)")


def expected_seconds(host: Host) -> float:
    """Estimate the next build's time without downloads, from the same work's time on a known machine."""
    parts = dict(_REFERENCE_SECONDS)
    if host.has_tools:
        del parts["tools"]
    if _is_fresh(host):
        del parts["packages"]
    return sum(parts.values()) * host.speed_seconds / _REFERENCE_SPEED


def foreign_seconds(host: Host, *, emulated: bool = False) -> float:
    """Estimate a first build for arm64 on a computer with amd64, without downloads, as `expected_seconds` does.

    Args:
        emulated: whether all of its programs are, for want of private binfmt handlers.
    """
    seconds = _REFERENCE_EMULATED if emulated else _REFERENCE_FOREIGN
    return seconds * host.speed_seconds / _REFERENCE_SPEED


def _about(seconds: float) -> str:
    return "under a minute" if seconds < 60 else f"about {round(seconds / 60)} min"


def _is_fresh(host: Host) -> bool:
    return host.layer_age is not None and host.layer_age < FRESH


def _short(text: str) -> str:
    """The last line, which is where programs say why."""
    return text.strip().splitlines()[-1] if text.strip() else text


_CHECKS: tuple[Callable[[Host], Iterator[Finding]], ...] = (
    _system,
    _programs,
    _namespaces,
    _subordinate_ids,
    _raspberry_pi,
    _space,
    _memory,
    _archive,
    _kvm,
    _time,
)
