"""A profile: one platform as data, read from `profiles/<name>/profile.yaml`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from builder.archive import MAIN
from builder.errors import BuildError
from builder.packing import Packing
from model.layout import FileSystem, Layout, Table

_UNITS = {"B": 1, "GB": 10**9, "MiB": 2**20, "GiB": 2**30}


def _size(value: object) -> object:
    match = re.fullmatch(r"(\d+) (B|GB|MiB|GiB)", value) if isinstance(value, str) else None
    return int(match.group(1)) * _UNITS[match.group(2)] if match else value


Size = Annotated[int, BeforeValidator(_size), Field(gt=0)]
"""Bytes; written as a number with `MiB`, `GiB` or (as on a disk's label) `GB`."""


class PartitionType(StrEnum):
    """Partition types by systemd's names (repart.d(5), Discoverable Partitions Specification), and `fat`."""

    ESP = "esp"
    ROOT_X86_64 = "root-x86-64"
    LINUX_GENERIC = "linux-generic"
    FAT = "fat"

    def code(self, table: Table) -> str:
        """The type as it stands in the partition table, and as sfdisk(8) shows it: a GUID, or a hexadecimal number.

        Raises:
            KeyError: such a table has no such type.
        """
        if table is Table.DOS:
            return {PartitionType.FAT: "c", PartitionType.LINUX_GENERIC: "83"}[self]
        return {
            PartitionType.ESP: "c12a7328-f81f-11d2-ba4b-00a0c93ec93b",
            PartitionType.ROOT_X86_64: "4f68bce3-e8cd-4db1-96e7-fbcaf984b709",
            PartitionType.LINUX_GENERIC: "0fc63daf-8483-4772-8e79-3d69d8477de4",
        }[self]


class Content(StrEnum):
    """What the builder puts into a partition.

    `boot` starts the system, `seed` is where a site's seed lies if that is not the same, `spare` is an empty file
    system for what starts a later version.
    """

    BOOT = "boot"
    ROOT = "root"
    SEED = "seed"
    SPARE = "spare"


class Loader(StrEnum):
    """What starts the kernel."""

    SYSTEMD_BOOT = "systemd-boot"
    RASPBERRY_PI = "raspberry-pi"


_PRIMARY = 3
"""Partitions before the extended one."""


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Partition(_Strict):
    """One row of the disk table; a partition without a size takes the rest of the disk.

    Args:
        start_size: its size in the image, where the table has all partitions from the beginning.
    """

    name: str
    type: PartitionType
    size: Size | None = None
    start_size: Size | None = None
    content: Content | None = None
    format: FileSystem | None = None

    @property
    def label(self) -> str:
        """The partition's label, and its file system's: how the device finds it."""
        return f"darkpipe-{self.name}"


class Profile(_Strict):
    """A platform that images are built for."""

    name: str
    folder: Path
    description: str
    architecture: str
    packages: tuple[str, ...]
    suites: tuple[str, ...] = ()
    areas: tuple[str, ...] = (MAIN,)
    kernel_command_line: tuple[str, ...]
    loader: Loader
    packing: Packing = Packing.ZSTD
    table: Table = Table.GPT
    partitions: tuple[Partition, ...]
    smallest_disk: Size

    @property
    def initramfs(self) -> tuple[Path, ...]:
        """Folders laid over `/etc/initramfs-tools` before packages are installed: everybody's, the profile's own."""
        folders = (self.folder.parent / "common/initramfs", self.folder / "initramfs")
        return tuple(folder for folder in folders if folder.is_dir())

    @property
    def boot_files(self) -> Path:
        """Shell script that collects the kernel, and what else the boot partition needs, from the root file system."""
        return self.folder / "boot-files.sh"

    def partition(self, content: Content) -> Partition:
        """The partition that holds some content."""
        return next(partition for partition in self.partitions if partition.content is content)

    @property
    def seed(self) -> Content:
        """What the partition with the seed holds otherwise."""
        return Content.SEED if any(p.content is Content.SEED for p in self.partitions) else Content.BOOT

    def layout(self) -> Layout:
        """What the device is told of its disk."""
        numbers = {partition.name: number for number, partition in self.numbered()}
        return Layout(
            table=self.table,
            boot=self.partition(self.seed).name,
            partitions=numbers if self.table is Table.DOS else {},
            formats={partition.name: partition.format for partition in self.partitions if partition.format},
        )

    def numbered(self) -> Iterator[tuple[int, Partition]]:
        """Give the partitions with their numbers; in a table of MBR the fourth holds the further ones."""
        for number, partition in enumerate(self.partitions, start=1):
            yield number + (self.table is Table.DOS and number > _PRIMARY), partition


def find_profile(profiles: Path, name: str) -> Profile:
    """Read the profile that a user names.

    Args:
        profiles: the folder with one folder for each profile.

    Raises:
        BuildError: there is none of that name.
    """
    known = sorted(path.parent.name for path in profiles.glob("*/profile.yaml"))
    if name not in known:
        raise BuildError(f"there is no profile {name!r}", f"the profiles are: {', '.join(known)}")
    return load_profile(profiles / name)


def all_profiles(profiles: Path) -> tuple[Profile, ...]:
    """Read all profiles, in the order of their names.

    Args:
        profiles: the folder with one folder for each profile.

    Raises:
        BuildError: a file breaks the model.
    """
    return tuple(load_profile(path.parent) for path in sorted(profiles.glob("*/profile.yaml")))


def load_profile(folder: Path) -> Profile:
    """Read `profile.yaml` of a folder.

    Raises:
        BuildError: there is no such profile, or its file breaks the model.
    """
    path = folder / "profile.yaml"
    if not path.is_file():
        raise BuildError(f"there is no profile at {folder}")
    try:
        return Profile(name=folder.name, folder=folder, **yaml.safe_load(path.read_text(encoding="utf-8")))
    except (yaml.YAMLError, ValidationError, TypeError) as error:
        raise BuildError(f"{path}: {error}") from error
