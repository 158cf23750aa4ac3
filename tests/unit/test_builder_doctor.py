"""What `./darkpipe doctor` says about computers that lack one thing each; tests/machine tries some of them for real."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from builder.archive import Archive
from builder.cache import Cache
from builder.doctor import Finding, Verdict, examine, expected_seconds, foreign_seconds
from builder.host import Host, Kvm, read_host, subordinate_ids

_GOOD = Host(
    user="alice",
    uid=1000,
    distribution="debian",
    machine="x86_64",
    kernel=(6, 12),
    capabilities=0,
    seccomp=False,
    apparmor="",
    container="",
    settings={"user/max_user_namespaces": 95000},
    subordinate={"subuid": 65536, "subgid": 65536},
    missing=(),
    namespaces="",
    binfmt="",
    host_handler=False,
    folders={Path("/home/alice/.cache/darkpipe"): 100 * 10**9},
    memory=8 * 10**9,
    processors=4,
    speed_seconds=0.49,
    archive="",
    kvm=Kvm.WORKS,
    has_tools=False,
    layer_age=None,
)
_REFUSED = "unshare: unshare failed: Operation not permitted"
_ALL_BUT_SYS_ADMIN = ((1 << 41) - 1) & ~(1 << 21)
_ROOT = replace(_GOOD, uid=0, user="root", capabilities=(1 << 41) - 1, container="docker")


def _bad(host: Host) -> list[Finding]:
    return [finding for finding in examine(host) if finding.verdict is not Verdict.FINE]


def test_a_good_computer_has_no_bad_line() -> None:
    assert _bad(_GOOD) == []
    assert _bad(_ROOT) == []
    assert all(not finding.remedy for finding in examine(_GOOD))


@pytest.mark.parametrize(
    ("host", "remedy"),
    [
        (replace(_ROOT, namespaces=_REFUSED, capabilities=_ALL_BUT_SYS_ADMIN), "--cap-add SYS_ADMIN"),
        (replace(_ROOT, namespaces=_REFUSED, seccomp=True), "seccomp=unconfined"),
        (replace(_ROOT, namespaces=_REFUSED, apparmor="docker-default (enforce)"), "apparmor=unconfined"),
        (
            replace(_GOOD, namespaces=_REFUSED, settings={"user/max_user_namespaces": 0}),
            "sysctl user.max_user_namespaces=",
        ),
        (
            replace(_GOOD, namespaces=_REFUSED, settings={"kernel/unprivileged_userns_clone": 0}),
            "sysctl kernel.unprivileged_userns_clone=1",
        ),
        (
            replace(_GOOD, namespaces=_REFUSED, settings={"kernel/apparmor_restrict_unprivileged_userns": 1}),
            "sysctl kernel.apparmor_restrict_unprivileged_userns=0",
        ),
        (replace(_GOOD, subordinate={"subuid": 0, "subgid": 65536}), "--add-subuids 100000-165535 alice"),
        (replace(_GOOD, missing=("mmdebstrap", "newuidmap", "newgidmap")), "install mmdebstrap uidmap"),
        (replace(_GOOD, machine="riscv64"), "use another computer"),
        (replace(_GOOD, folders={Path("/c"): 3 * 10**9}), "free some"),
        (replace(_GOOD, archive="E: Failed to fetch"), "DARKPIPE_MIRROR"),
    ],
)
def test_problems_name_their_remedy(host: Host, remedy: str) -> None:
    problems = [finding for finding in examine(host) if finding.verdict is Verdict.PROBLEM]
    assert any(remedy in finding.remedy for finding in problems), problems
    assert all(finding.remedy for finding in problems)


@pytest.mark.parametrize(
    ("host", "subject"),
    [
        (replace(_GOOD, distribution="fedora"), "system"),
        (replace(_GOOD, binfmt="mount: permission denied"), "images for arm64"),
        (replace(_GOOD, binfmt="mount: permission denied", host_handler=True), "images for arm64"),
        (replace(_GOOD, memory=10**9), "memory"),
        (replace(_GOOD, folders={Path("/c"): 5 * 10**9}), "disk space"),
        *((replace(_GOOD, kvm=kvm), "virtual machines") for kvm in (Kvm.ABSENT, Kvm.REFUSED, Kvm.BROKEN)),
    ],
)
def test_warnings(host: Host, subject: str) -> None:
    (finding,) = _bad(host)
    assert (finding.subject, finding.verdict) == (subject, Verdict.WARNING)
    assert finding.remedy


def test_a_strict_setting_is_no_problem_where_namespaces_work_all_the_same() -> None:
    """An AppArmor profile may allow them to unshare(1)."""
    assert _bad(replace(_GOOD, settings={"kernel/apparmor_restrict_unprivileged_userns": 1})) == []


def test_an_unknown_reason_still_has_a_remedy() -> None:
    (finding,) = _bad(replace(_GOOD, namespaces=f"first line\n{_REFUSED}"))
    assert finding.found == f"cannot be made: {_REFUSED}"
    assert "build as root" in finding.remedy


def test_expected_time_follows_what_is_there_and_how_fast_the_computer_is() -> None:
    cold = expected_seconds(_GOOD)
    assert expected_seconds(replace(_GOOD, speed_seconds=0.98)) == 2 * cold
    assert expected_seconds(replace(_GOOD, has_tools=True)) < cold
    warm = replace(_GOOD, has_tools=True, layer_age=60.0)
    assert expected_seconds(warm) < 60
    assert expected_seconds(replace(warm, layer_age=25 * 3600.0)) > expected_seconds(warm)


def test_a_plain_emulation_is_said_to_take_longer() -> None:
    old = replace(_GOOD, kernel=(6, 1), binfmt="mount: permission denied")
    assert foreign_seconds(old, emulated=True) > 2 * foreign_seconds(old)
    (without,) = _bad(old)
    assert "qemu-user-binfmt" in without.remedy
    (slow,) = _bad(replace(old, host_handler=True))
    assert "takes about 11 min" in slow.found
    assert "6.7" in slow.remedy


def test_a_new_kernel_whose_owner_forbids_namespaces_is_not_called_old() -> None:
    (finding,) = _bad(replace(_GOOD, binfmt="unshare: No space left"))
    assert "has no private" not in finding.found
    assert "kernel of version" not in finding.remedy
    assert "user.max_user_namespaces" in finding.remedy


def test_an_arm64_computer_runs_its_own_programs() -> None:
    assert _bad(replace(_GOOD, machine="aarch64", binfmt="mount: permission denied")) == []


def test_subordinate_ids_are_the_largest_block_of_the_user(tmp_path: Path) -> None:
    path = tmp_path / "subuid"
    path.write_text("alice:100000:1000\nbob:200000:65536\n1000:300000:65536\nbroken\nalice:x:y\n")
    assert subordinate_ids(path, "alice", 1000) == 65536
    assert subordinate_ids(path, "alice", 1001) == 1000
    assert subordinate_ids(path, "carol", 1002) == 0
    assert subordinate_ids(tmp_path / "absent", "alice", 1000) == 0


def test_this_computer_is_read_without_an_archive(tmp_path: Path) -> None:
    nowhere = Archive(("deb [trusted=yes] file:/nowhere trixie main",))
    host = read_host(Cache(tmp_path / "cache"), nowhere, tmp_path / "no/such/folder")
    assert host.archive
    assert host.layer_age is None
    assert not host.has_tools
    assert set(host.folders) == {tmp_path / "cache", tmp_path / "no/such/folder"}
    assert all(free > 0 for free in host.folders.values())
    assert host.kernel >= (4, 0)
    assert host.speed_seconds > 0
