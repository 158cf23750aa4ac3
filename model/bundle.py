"""The relay's software: a tar that home carries and brings to its relay, and what the two say about it.

Its id is the SHA-256 of the tar. In it lie `run`, which runs a module, the packages `relay` and `model`, `system/`
(files that are laid out as `/`, some of them templates), `wheels/`, and the manifest.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from model.control import ControlError, Message

MANIFEST = "bundle.json"
SYSTEM = "system"
WHEELS = "wheels"

BUNDLE = "relay-bundle.tar"
BUNDLE_RECORD = "relay-bundle.json"
"""Names of the tar and of what home must know of it (`id`, `version`, `protocol`, `bytes`), in the image's data."""

PATH = "/bundle"
IDENTIFIER = "id"
DOWNGRADE = "downgrade"
"""`PUT /bundle?id=…` brings a bundle; with `downgrade=yes` home says that an older version is what it wants."""

_VERSION = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})*")


@dataclass(frozen=True)
class Manifest(Message):
    """What a bundle says about itself.

    Args:
        version: of DarkPipe, numbers with dots between them.
        protocol: version of the control plane's messages.
        packages: Debian packages that it needs.
        wheels: files of Python libraries to the machines that they are for (uname(1)).
    """

    version: str
    protocol: int
    packages: tuple[str, ...] = ()
    wheels: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # TypeError and ValueError are what a reader expects of fields that are something else.
        if not _VERSION.fullmatch(self.version):
            raise ValueError("version: expected numbers with dots between them")
        object.__setattr__(self, "protocol", int(self.protocol))
        object.__setattr__(self, "wheels", {str(file): str(machine) for file, machine in dict(self.wheels).items()})
        object.__setattr__(self, "packages", tuple(self.packages))

    def is_older_than(self, other: Manifest) -> bool:
        """Tell whether going from the other to this one is a downgrade."""
        return is_older(self.version, other.version)

    def serves(self, machine: str) -> bool:
        """Tell whether it has its libraries for a machine (uname(1))."""
        return not self.wheels or machine in self.wheels.values()


class BundleState(StrEnum):
    """How it stands with the relay's software."""

    EMPTY = "empty"
    """There is none."""

    INSTALLED = "installed"
    TRYING = "trying"
    """Another one was switched in; whether it is well shows within two minutes."""

    REFUSED = "refused"
    """Another one was not well, so that the one before came back."""


@dataclass(frozen=True)
class BundleStatus(Message):
    """Answer to `GET /bundle`, and to `PUT /bundle` when what came was taken.

    Args:
        bundle: id of the one in force; empty for none.
        version: of the one in force.
        other: id of the one that is tried, or was refused.
        problem: why it was refused, in a sentence.
    """

    bundle: str
    version: str
    state: BundleState
    other: str = ""
    problem: str = ""

    def __post_init__(self) -> None:
        if self.version and not _VERSION.fullmatch(self.version):
            raise ControlError("version of a bundle: expected numbers with dots between them")
        try:
            object.__setattr__(self, "state", BundleState(self.state))
        except ValueError:
            raise ControlError(f"found a bundle in the state {self.state!r}") from None


def is_older(version: str, other: str) -> bool:
    """Tell whether a version comes before another; an empty one is that of no software.

    Raises:
        ValueError: one of them is no version.
    """
    return _numbers(version) < _numbers(other)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in version.split(".")) if version else ()
