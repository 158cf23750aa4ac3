"""Python libraries that Debian does not have, for the device and its relay: wheels, pinned by their digests.

`wheels.lock` names them for both architectures, one a line; `./dev lock` makes it. Their code uses CPython's stable
ABI, so that the same file fits Debian 12's Python and Debian 13's.
"""

from __future__ import annotations

import json
import shutil
import sys
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from builder.cache import Cache
from builder.digests import content_id, file_digest
from builder.errors import BuildError, ToolError
from builder.run import run

WHEELS_LOCK = Path(__file__).resolve().parent.parent / "wheels.lock"
LIBRARIES = ("obstore", "pyrage")
"""Names of the distributions: S3 stores, and age."""

ARCHITECTURES = {"amd64": "x86_64", "arm64": "aarch64"}
"""Debian's names, and those of the platform tags."""

_KIND = "wheels"
_PYTHON = "3.11"
_OLDEST_GLIBC, _DEBIAN_12_GLIBC = 17, 36
"""Minor versions: what older tags ask for runs with any newer one (PEP 600)."""


class Wheel(BaseModel):
    """One wheel file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[a-z0-9-]+$")
    version: str = Field(pattern=r"^[0-9.]+$")
    architecture: Literal["amd64", "arm64"]
    file: str = Field(pattern=r"^[A-Za-z0-9_.-]+\.whl$")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")

    @property
    def url(self) -> str:
        """Its name in the form of package-url (type `pypi`)."""
        return f"pkg:pypi/{self.name}@{self.version}?file_name={quote(self.file, safe='.-_~')}"


class _Lock(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    darkpipe_wheels: Literal[1]
    wheels: tuple[Wheel, ...]


def lock_text(wheels: Iterable[Wheel]) -> str:
    """Write the lock file; the same wheels always give the same bytes."""
    rows = ",\n".join(json.dumps(wheel.model_dump()) for wheel in sorted(wheels, key=lambda one: one.file))
    return f'{{"darkpipe_wheels": 1, "wheels": [\n{rows}\n]}}\n'


def locked_wheels(path: Path = WHEELS_LOCK) -> tuple[Wheel, ...]:
    """Read the lock file.

    Raises:
        BuildError: it is none.
    """
    try:
        return _Lock.model_validate_json(path.read_text(encoding="utf-8")).wheels
    except (OSError, UnicodeDecodeError, ValidationError) as error:
        raise BuildError(f"{path} is no lock of wheels: {error}", "fetch the checkout anew") from error


def keep_wheels(cache: Cache) -> None:
    """Mark the files of the lock as used: a build needs them whenever its project layer is made."""
    cache.find(_KIND, content_id(_inputs(locked_wheels())))


def wheel_files(cache: Cache, folder: Path | None = None) -> Path:
    """Give a folder with all files of the lock under their names there; each is what the lock says.

    Args:
        folder: to take missing ones from, and from nowhere else; None fetches them.

    Raises:
        BuildError: one is not to be had, or has other bits.
    """
    wheels = locked_wheels()

    def fill(made: Path) -> None:
        if folder:
            _take(wheels, made, folder)
        else:
            for architecture in ARCHITECTURES:
                _download([wheel for wheel in wheels if wheel.architecture == architecture], made)
        _check(wheels, made)

    return cache.produce(_KIND, "Python wheels", _inputs(wheels), fill)


def _inputs(wheels: Iterable[Wheel]) -> dict[str, object]:
    return {"wheels": [wheel.model_dump() for wheel in wheels]}


def _check(wheels: Iterable[Wheel], folder: Path) -> None:
    for wheel in wheels:
        if file_digest(folder / wheel.file) != wheel.sha256:
            raise BuildError(f"{wheel.file} is not what wheels.lock says: it has another sha256")


def _download(wheels: Sequence[Wheel], folder: Path) -> None:
    """Fetch wheels of one architecture by pip, from where its settings say."""
    (architecture,) = {wheel.architecture for wheel in wheels}
    wanted = folder.parent / "wanted"
    wanted.write_text("".join(f"{one.name}=={one.version} --hash=sha256:{one.sha256}\n" for one in wheels))
    try:
        run([*pip_download(architecture), "--require-hashes", f"--requirement={wanted}", f"--dest={folder}"])
    except ToolError as error:
        raise BuildError(
            f"the wheels of {', '.join(one.name for one in wheels)} cannot be fetched:\n\n{error.output}",
            "is the network up? pip reads its settings from pip.conf and PIP_… variables",
        ) from error


def pip_download(architecture: str) -> list[str]:
    """Give the beginning of a command that fetches wheels for a Debian 12 or later of some architecture."""
    machine = ARCHITECTURES[architecture]
    tags = [f"manylinux_2_{minor}_{machine}" for minor in range(_OLDEST_GLIBC, _DEBIAN_12_GLIBC + 1)]
    return [
        *(sys.executable, "-I", "-m", "pip", "--disable-pip-version-check", "--no-input", "download"),
        *("--quiet", "--no-deps", "--only-binary=:all:", f"--python-version={_PYTHON}", "--implementation=cp"),
        *("--abi=abi3", f"--platform=manylinux2014_{machine}", *(f"--platform={tag}" for tag in tags)),
    ]


def unpack(wheels: Iterable[Wheel], folder: Path, target: Path) -> None:
    """Unpack wheels into a folder that is to be on Python's path.

    Args:
        folder: has the files, which are what the lock says.
    """
    for wheel in wheels:
        with zipfile.ZipFile(folder / wheel.file) as file:
            file.extractall(target)


def _take(wheels: Sequence[Wheel], made: Path, folder: Path) -> None:
    there = {file_digest(path): path for path in sorted(folder.glob("*.whl")) if path.is_file()}
    if missing := [wheel.file for wheel in wheels if wheel.sha256 not in there]:
        raise BuildError(f"{folder} does not have {', '.join(missing)}", "add the files, or leave out --packages")
    for wheel in wheels:
        shutil.copyfile(there[wheel.sha256], made / wheel.file)
