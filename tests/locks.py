"""The lock files: made from pyproject.toml by uv, and checked against it without a network.

requirements.lock has what ./darkpipe runs with; requirements-dev.lock has the same and the developers' tools.
wheels.lock has the files of those libraries that device and relay get, in the versions that the developers test with.
"""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from packaging.markers import Marker, default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from builder.digests import file_digest
from builder.wheels import ARCHITECTURES, LIBRARIES, WHEELS_LOCK, Wheel, lock_text, locked_wheels, pip_download

REPOSITORY = Path(__file__).resolve().parent.parent
PROGRAM = REPOSITORY / "requirements.lock"
DEVELOPERS = REPOSITORY / "requirements-dev.lock"
PYTHONS = ("3.11", "3.12", "3.13")
"""Of Debian 12, Ubuntu 24.04 and Debian 13."""

_MACHINES = ("x86_64", "aarch64")
_HEADER = "# Made by ./dev lock from pyproject.toml.\n"
_COMPILE = ("pip", "compile", "--quiet", "--universal", "--generate-hashes", "--no-annotate", "--no-header")

Requires = Callable[[str], Iterable[Requirement]]
"""Gives the requirements of an installed distribution."""


@dataclass(frozen=True)
class Pin:
    """One distribution of a lock file.

    Args:
        name: its canonical name.
        version: the only version that is allowed.
        marker: where it is installed; everywhere without one.
        hashes: of its files, as pip writes them.
    """

    name: str
    version: str
    marker: Marker | None
    hashes: tuple[str, ...]


def read_lock(text: str) -> list[Pin]:
    """Parse a lock file.

    Raises:
        ValueError: a line is not `NAME==VERSION [; MARKER] --hash=…`.
    """
    pins = []
    for line in text.replace("\\\n", " ").splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        requirement, *hashes = line.split("--hash=")
        parsed = Requirement(requirement)
        versions = [item.version for item in parsed.specifier if item.operator == "=="]
        if len(versions) != 1:
            raise ValueError(f"{parsed.name} is not pinned by ==")
        found = tuple(digest.strip() for digest in hashes)
        pins.append(Pin(canonicalize_name(parsed.name), versions[0], parsed.marker, found))
    return pins


def find_problems(pins: Sequence[Pin], wanted: Sequence[Requirement], requires: Requires) -> list[str]:
    """Compare a lock file with what is asked for, for every Python and machine that we support.

    Args:
        pins: the lock file.
        wanted: the direct requirements.
        requires: gives the requirements of a distribution, for the indirect ones.
    """
    problems = [f"{pin.name} has no hash" for pin in pins if not pin.hashes]
    used: set[str] = set()
    for environment in _environments():
        where = f"Python {environment['python_version']} on {environment['platform_machine']}"
        active = {pin.name: pin.version for pin in pins if pin.marker is None or pin.marker.evaluate(environment)}
        for requirement in _closure(wanted, requires, environment, active):
            name = canonicalize_name(requirement.name)
            used.add(name)
            if name not in active:
                problems.append(f"{name} is not pinned for {where}")
            elif not requirement.specifier.contains(active[name], prereleases=True):
                problems.append(f"{requirement} is wanted for {where}, {active[name]} is pinned")
    # A marker that never holds here belongs to another system; pip passes over it.
    unused = {pin.name for pin in pins if any(_holds(pin, where) for where in _environments())} - used
    problems += [f"{name} is pinned and nothing needs it" for name in unused]
    return sorted(set(problems))


def check_locks() -> bool:
    """Check both lock files and print what is wrong; True when nothing is."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    program = [Requirement(text) for text in project["project"]["dependencies"]]
    developers = [*program, *(Requirement(text) for text in project["dependency-groups"]["dev"])]
    problems = []
    pinned = {}
    for path, wanted in ((PROGRAM, program), (DEVELOPERS, developers)):
        text = path.read_text(encoding="utf-8")
        pinned[path] = read_lock(text)
        problems += [f"{path.name}: {problem}" for problem in find_problems(pinned[path], wanted, _installed_requires)]
        if "://" in text:
            problems.append(f"{path.name}: names a server; which one is the user's choice")
    tested = {pin.name: pin.version for pin in pinned[DEVELOPERS]}
    problems += [
        f"{DEVELOPERS.name}: tests {pin.name} {tested.get(pin.name)}, while {PROGRAM.name} has {pin.version}"
        for pin in pinned[PROGRAM]
        if tested.get(pin.name) != pin.version
    ]
    problems += wheel_problems(locked_wheels(), pinned[DEVELOPERS])
    for problem in problems:
        print(problem)
    if problems:
        print("./dev lock makes the lock files anew.")
    return not problems


def wheel_problems(wheels: Iterable[Wheel], pins: Iterable[Pin]) -> list[str]:
    """Compare the wheels for device and relay with those that the developers test with."""
    pinned = {pin.name: pin for pin in pins}
    found = {(wheel.name, str(wheel.architecture)): wheel for wheel in wheels}
    problems = [
        f"{WHEELS_LOCK.name}: has {name} for {where}, which nothing uses" for name, where in found.keys() - _wanted()
    ]
    for name, architecture in sorted(_wanted()):
        wheel = found.get((name, architecture))
        if wheel is None:
            problems.append(f"{WHEELS_LOCK.name}: has no {name} for {architecture}")
        elif (wheel.version, True) != (pinned[name].version, f"sha256:{wheel.sha256}" in pinned[name].hashes):
            problems.append(f"{WHEELS_LOCK.name}: has another {wheel.file} than {DEVELOPERS.name}")
    return problems


def make_locks(*, upgrade: bool = False) -> None:
    """Write all lock files.

    Args:
        upgrade: take the newest versions, rather than keep those that still fit.

    Raises:
        subprocess.CalledProcessError: uv failed; it has said why.
    """
    everywhere = ("--python-version", PYTHONS[0], *(["--upgrade"] if upgrade else []))
    _compile(PROGRAM, *everywhere, "pyproject.toml")
    # The developers' tools must not move what the program runs with.
    _compile(DEVELOPERS, *everywhere, "--constraints", PROGRAM.name, "--group", "dev", "pyproject.toml")
    pins = read_lock(DEVELOPERS.read_text(encoding="utf-8"))
    WHEELS_LOCK.write_text(lock_text(_wheels_of(pins)), encoding="utf-8")


def _wanted() -> set[tuple[str, str]]:
    return {(name, architecture) for name in LIBRARIES for architecture in ARCHITECTURES}


def _wheels_of(pins: Iterable[Pin]) -> Iterator[Wheel]:
    """Fetch the pinned wheels to learn their names: a pin tells the digests of all platforms' files."""
    pinned = {pin.name: pin for pin in pins}
    for name, architecture in sorted(_wanted()):
        pin = pinned[name]
        with tempfile.TemporaryDirectory() as folder:
            wanted = Path(folder, "wanted")
            wanted.write_text(f"{name}=={pin.version} {' '.join(f'--hash={one}' for one in pin.hashes)}\n")
            command = [*pip_download(architecture), "--require-hashes", f"--requirement={wanted}", f"--dest={folder}"]
            subprocess.run(command, check=True)
            (path,) = Path(folder).glob("*.whl")
            yield Wheel(
                name=name, version=pin.version, architecture=architecture, file=path.name, sha256=file_digest(path)
            )


def _compile(target: Path, *arguments: str) -> None:
    command = [sys.executable, "-m", "uv", *_COMPILE, *arguments, "--output-file", target.name]
    subprocess.run(command, cwd=REPOSITORY, check=True, stdout=subprocess.DEVNULL)
    target.write_text(_HEADER + target.read_text(encoding="utf-8"), encoding="utf-8")


def _closure(
    wanted: Iterable[Requirement], requires: Requires, environment: dict[str, str], active: dict[str, str]
) -> Iterator[Requirement]:
    """Everything that is needed in an environment, directly or not."""
    waiting = [(requirement, "") for requirement in wanted]
    seen: set[tuple[str, str]] = set()
    while waiting:
        requirement, asked_by = waiting.pop()
        if requirement.marker is not None and not requirement.marker.evaluate({**environment, "extra": asked_by}):
            continue
        yield requirement
        name = canonicalize_name(requirement.name)
        for extra in ("", *requirement.extras):
            if name in active and (name, extra) not in seen:
                seen.add((name, extra))
                waiting += [(indirect, extra) for indirect in requires(name)]


def _installed_requires(name: str) -> Iterable[Requirement]:
    try:
        return [Requirement(text) for text in importlib.metadata.requires(name) or []]
    except importlib.metadata.PackageNotFoundError:
        return []  # needed by another version of Python only


def _holds(pin: Pin, environment: dict[str, str]) -> bool:
    return pin.marker is None or pin.marker.evaluate(environment)


def _environments() -> Iterator[dict[str, str]]:
    for version in PYTHONS:
        for machine in _MACHINES:
            fixed = {"python_version": version, "python_full_version": f"{version}.0", "platform_machine": machine}
            yield {key: str(value) for key, value in default_environment().items()} | fixed
