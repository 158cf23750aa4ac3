"""The lock files: made from pyproject.toml by uv, and checked against it without a network.

requirements.lock has what ./darkpipe runs with; requirements-dev.lock has the same and the developers' tools.
"""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from packaging.markers import Marker, default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

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
    for problem in problems:
        print(problem)
    if problems:
        print("./dev lock makes the lock files anew.")
    return not problems


def make_locks(*, upgrade: bool = False) -> None:
    """Write both lock files.

    Args:
        upgrade: take the newest versions, rather than keep those that still fit.

    Raises:
        subprocess.CalledProcessError: uv failed; it has said why.
    """
    everywhere = ("--python-version", PYTHONS[0], *(["--upgrade"] if upgrade else []))
    _compile(PROGRAM, *everywhere, "pyproject.toml")
    # The developers' tools must not move what the program runs with.
    _compile(DEVELOPERS, *everywhere, "--constraints", PROGRAM.name, "--group", "dev", "pyproject.toml")


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
