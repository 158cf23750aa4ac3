"""The layout of a disk image, as the device is told it: `/usr/share/darkpipe/disk.json`."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from pydantic import BaseModel, ConfigDict


class Table(StrEnum):
    """Kinds of partition tables, by sfdisk(8)'s names."""

    GPT = "gpt"
    DOS = "dos"


class FileSystem(StrEnum):
    """What the device makes in a partition at its first start."""

    EXT4 = "ext4"
    BTRFS = "btrfs"


class Layout(BaseModel):
    """Where a device finds its partitions.

    Args:
        boot: name of the partition that holds the seed.
        partitions: name to number, where the table has no labels; empty for GPT, whose label is `darkpipe-<name>`.
        formats: name to file system, for those that the device makes itself.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    table: Table
    boot: str
    partitions: Mapping[str, int] = {}
    formats: Mapping[str, FileSystem]
