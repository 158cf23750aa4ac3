"""Locks: the exact Debian packages of one profile, to hold a release to.

A lock file is JSON with one package a line, so that a version control system shows what has changed:

    {"darkpipe_lock": 1, "profile": "x64", "suite": "trixie", "architecture": "amd64", "packages": [
    {"name": "adduser", "version": "3.152", "architecture": "all", "sha256": "…", "bytes": 190828, "source": "adduser"},
    …
    ]}

`sha256` and `bytes` are those of the `.deb` file; `source` is the source package, with its version behind a `=` where
that differs.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from builder.errors import BuildError

_SHA256 = r"^[0-9a-f]{64}$"
_WORD = r"^[^\s/]+$"


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class LockedPackage(_Strict):
    """One `.deb` file."""

    name: str = Field(pattern=_WORD)
    version: str = Field(pattern=_WORD)
    architecture: str = Field(pattern=_WORD)
    sha256: str = Field(pattern=_SHA256)
    bytes: int = Field(ge=0)
    source: str = Field(pattern=_WORD)

    @property
    def key(self) -> str:
        """What apt installs: `name:architecture=version`."""
        return f"{self.name}:{self.architecture}={self.version}"


class Lock(_Strict):
    """All packages of a profile."""

    darkpipe_lock: Literal[1] = 1
    profile: str
    suite: str
    architecture: str
    packages: tuple[LockedPackage, ...]

    def text(self) -> str:
        """Write the lock file; the same lock always gives the same bytes."""
        head = json.dumps(self.model_dump(exclude={"packages"}))[:-1]
        rows = ",\n".join(json.dumps(package.model_dump()) for package in self.packages)
        return f'{head}, "packages": [\n{rows}\n]}}\n'


def parse_lock(text: str, name: str) -> Lock:
    """Read a lock file.

    Args:
        name: what to call it in messages.

    Raises:
        BuildError: it is none.
    """
    try:
        lock = Lock.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = "/".join(str(part) for part in first["loc"]) or "the file"
        message = f"{name} is no lock: {where}: {first['msg']}"
        raise BuildError(message, "make one with `./darkpipe lock`") from error
    if twice := _twice(f"{package.name}:{package.architecture}" for package in lock.packages):
        raise BuildError(f"{name} is no lock: it has {twice} twice", "make one with `./darkpipe lock`")
    return lock


def read_lock(path: Path) -> Lock:
    """Read a lock file; see `parse_lock`.

    Raises:
        BuildError: it cannot be read, or is none.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BuildError(f"{path} cannot be read: {error}", "make one with `./darkpipe lock`") from error
    return parse_lock(text, str(path))


@dataclass(frozen=True)
class Installed:
    """A package as dpkg knows it (/var/lib/dpkg/status)."""

    name: str
    version: str
    architecture: str


def stanzas(text: str) -> Iterable[dict[str, str]]:
    """Read the stanzas of a control file (deb-control(5)); continuation lines are left out."""
    for block in text.split("\n\n"):
        rows = (line.partition(":") for line in block.splitlines() if line and not line[0].isspace())
        fields = {name: value.strip() for name, _, value in rows}
        if fields:
            yield fields


def installed_packages(status: str) -> frozenset[Installed]:
    """Read the packages that are installed from the text of dpkg's status file."""
    return frozenset(
        Installed(fields["Package"], fields["Version"], fields["Architecture"])
        for fields in stanzas(status)
        if fields.get("Status", "").endswith(" installed")
    )


def packages_from_index(installed: Iterable[Installed], index: str) -> tuple[LockedPackage, ...]:
    """Join what is installed with the archive's index, which has the digests.

    Args:
        index: stanzas of Packages files.

    Raises:
        BuildError: the index does not have a package.
    """
    known = {(row["Package"], row["Version"], row["Architecture"]): row for row in stanzas(index)}
    packages = []
    for one in sorted(installed, key=lambda package: (package.name, package.architecture)):
        row = known.get((one.name, one.version, one.architecture))
        if row is None or "SHA256" not in row:
            raise BuildError(f"{one.name} {one.version} is installed, and the archive's index does not have it")
        packages.append(
            LockedPackage(
                name=one.name,
                version=one.version,
                architecture=one.architecture,
                sha256=row["SHA256"],
                bytes=int(row["Size"]),
                source=_source(row),
            )
        )
    return tuple(packages)


def _source(row: dict[str, str]) -> str:
    """Source is `name (version)`, or absent where it is the same (deb-control(5))."""
    return row.get("Source", row["Package"]).replace(" (", "=").rstrip(")")


def _twice(names: Iterable[str]) -> str:
    seen: set[str] = set()
    return next((name for name in names if name in seen or seen.add(name)), "")  # type: ignore[func-returns-value]
