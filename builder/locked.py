"""The packages of a lock, gathered into a small archive of their own that a locked build installs from.

They come from Debian's archive (or the mirror in `$DARKPIPE_MIRROR`), or from a folder of `.deb` files and then from
nowhere else. Either way each file has the sha256 of the lock, or it is refused.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from builder.archive import INDICES_ONLY, SUITE, Archive
from builder.digests import file_digest
from builder.errors import BuildError
from builder.lock import Lock, LockedPackage, stanzas
from builder.sandbox import Sandbox

_SCRIPT = Path(__file__).with_name("locked.sh")
_MOST_NAMED = 20


def gather(lock: Lock, debs: Path, tools: Sandbox, archive: Archive, folder: Path | None) -> str:
    """Fill an empty folder below the cache with the packages of a lock.

    Args:
        debs: the folder; its parent is a workspace.
        folder: `.deb` files to take them from; None fetches them.

    Returns:
        The apt source line (sources.list(5)) of the archive that the folder has become.

    Raises:
        BuildError: a package is not to be had, or is not what the lock says; all such are named.
    """
    if folder is None:
        _fetch(lock, debs, tools, archive)
    else:
        _take(lock, debs, folder)
    _check(lock, debs)
    inside = tools.inside(debs)
    tools.run(["sh", "-eu", "-c", _SCRIPT.read_text(), "locked.sh", "index", inside, lock.suite])
    # apt cannot check a signature that nobody has made; every file has been compared with the lock instead.
    return f"deb [trusted=yes] copy://{inside} ./"


def check_fit(lock: Lock, profile: str, architecture: str, wanted: Iterable[str]) -> None:
    """Refuse a lock that was made for something else.

    Args:
        wanted: names of the packages that profile and components ask for.

    Raises:
        BuildError: it says what differs.
    """
    found, expected = (lock.profile, lock.architecture, lock.suite), (profile, architecture, SUITE)
    if found != expected:
        message = f"the lock is for {' '.join(found)}; this build is for {' '.join(expected)}"
        raise BuildError(message, "make one for it with `./darkpipe lock`")
    if missing := sorted(set(wanted) - {package.name for package in lock.packages}):
        message = f"the lock does not have what this version asks for: {', '.join(missing)}"
        raise BuildError(message, "take the version of DarkPipe that the lock was made with, or make a new lock")


def check_installed(lock: Lock, installed: Sequence[LockedPackage]) -> None:
    """Compare what a locked build has installed with its lock.

    Raises:
        BuildError: the lock has packages that nothing needs, so it belongs to another version.
    """
    if surplus := sorted({one.name for one in lock.packages} - {one.name for one in installed}):
        message = f"the lock has packages that nothing asks for: {', '.join(surplus)}"
        raise BuildError(message, "take the version of DarkPipe that the lock was made with, or make a new lock")


def _fetch(lock: Lock, debs: Path, tools: Sandbox, archive: Archive) -> None:
    work = debs.parent
    index, wanted = work / "available", work / "wanted"
    script, inside = work / "locked.sh", tools.inside(debs)
    shutil.copy(_SCRIPT, script)
    options = [*INDICES_ONLY, f"--arch={lock.architecture}", "--quiet"]

    def in_archive(step: str, *arguments: str) -> None:
        # What the hook prints on standard output would get into the (empty) output of mmdebstrap.
        hook = " ".join(("--customize-hook=sh", tools.inside(script), step, '"$1"', *arguments, ">&2"))
        tools.run(["mmdebstrap", *options, *archive.options, hook, SUITE, "-", *archive.mirrors])

    in_archive("list", tools.inside(index))
    _check_available(lock, index.read_text(encoding="utf-8"))
    wanted.write_text("".join(f"{_request(package)}\n" for package in lock.packages))
    in_archive("fetch", tools.inside(wanted), inside)


def _check_available(lock: Lock, index: str) -> None:
    digests: dict[tuple[str, str, str], str] = {}
    versions: dict[str, set[str]] = {}
    for row in stanzas(index):
        digests[row["Package"], row["Version"], row["Architecture"]] = row.get("SHA256", "")
        versions.setdefault(row["Package"], set()).add(row["Version"])
    faults = []
    for one in lock.packages:
        digest = digests.get((one.name, one.version, one.architecture))
        if digest is None:
            others = ", ".join(sorted(versions.get(one.name, ()))) or "no version at all"
            faults.append(f"{one.name} {one.version} {one.architecture} (it has {others})")
        elif digest != one.sha256:
            faults.append(f"{one.name} {one.version} {one.architecture} with the lock's sha256 (it has other bits)")
    if faults:
        hint = "use an archive that keeps old versions ($DARKPIPE_MIRROR), or a folder of the files (--packages)"
        raise BuildError(f"the archive does not have {_named(faults)}", hint)


def _take(lock: Lock, debs: Path, folder: Path) -> None:
    """Copy what the lock names, whatever the files are called."""
    there = {file_digest(path): path for path in sorted(folder.glob("*.deb")) if path.is_file()}
    faults = []
    for one in lock.packages:
        if one.sha256 in there:
            shutil.copy(there[one.sha256], debs / _file_name(one))
        else:
            same_name = {folder / _file_name(one), folder / _file_name(one).replace(":", "%3a")}
            other = " (the file of that name has another sha256)" if any(path.exists() for path in same_name) else ""
            faults.append(f"{one.name} {one.version} {one.architecture}{other}")
    if faults:
        raise BuildError(f"{folder} does not have {_named(faults)}", "add the files, or leave out --packages")


def _check(lock: Lock, debs: Path) -> None:
    """Compare every gathered file with the lock; apt has checked its own index only."""
    digests = {file_digest(path) for path in debs.glob("*.deb")}
    wrong = [f"{one.name} {one.version}" for one in lock.packages if one.sha256 not in digests]
    surplus = digests - {one.sha256 for one in lock.packages}
    if wrong or surplus:
        raise BuildError(f"these packages are not what the lock says: {_named(wrong) or f'{len(surplus)} files'}")


def _request(package: LockedPackage) -> str:
    name = package.name if package.architecture == "all" else f"{package.name}:{package.architecture}"
    return f"{name}={package.version}"


def _file_name(package: LockedPackage) -> str:
    return f"{package.name}_{package.version}_{package.architecture}.deb"


def _named(faults: Sequence[str]) -> str:
    lines = [f"\n  {fault}" for fault in faults[:_MOST_NAMED]]
    if len(faults) > _MOST_NAMED:
        lines.append(f"\n  … and {len(faults) - _MOST_NAMED} more")
    return "".join(lines)
