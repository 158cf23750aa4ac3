"""What every stage of a build works with: tools, cache, archive, and somebody to tell how it goes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from builder.archive import Archive
from builder.cache import Cache
from builder.digests import code_digests, content_id
from builder.progress import Advance, Stages
from builder.sandbox import Sandbox


class Stage(StrEnum):
    """The stages of a build, in their order; the values are the cache's folders and the words of `./darkpipe why`."""

    TOOLS = "tools"
    PACKAGES = "packages"
    PROJECT = "project"
    TAR = "tar"
    ROOT = "root"
    BOOT = "boot"
    IMAGE = "image"

    @property
    def label(self) -> str:
        """The stage as the user sees it."""
        return {
            Stage.TOOLS: "Build tools",
            Stage.PACKAGES: "Package layer",
            Stage.PROJECT: "Project layer",
            Stage.TAR: "Root tar",
            Stage.ROOT: "Root file system",
            Stage.BOOT: "Boot partition",
            Stage.IMAGE: "Disk image",
        }[self]


class WouldMakeError(Exception):
    """A workshop that only plans has come to a stage whose result is not there.

    Args:
        stage: which.
        inputs: all that its result would depend on, as far as it is known beforehand.
    """

    def __init__(self, stage: Stage, inputs: Mapping[str, object]) -> None:
        super().__init__(stage.label)
        self.stage = stage
        self.inputs = inputs


@dataclass(frozen=True)
class Workshop:
    """The mutable surroundings of a build; what is to be built is passed apart.

    Args:
        planning: make nothing; `stage` raises WouldMakeError where it would.
    """

    tools: Sandbox
    cache: Cache
    archive: Archive
    stages: Stages
    planning: bool = False

    def complete(self, inputs: Mapping[str, object], code: Sequence[str]) -> dict[str, object]:
        """Add to a stage's own inputs what all have: the tools' versions, and how they are called.

        Args:
            code: the builder's files that decide what the result looks like.
        """
        return {"tools": self.tools.versions, "code": code_digests("sandbox.sh", *code), **inputs}

    def stage(
        self,
        stage: Stage,
        inputs: Mapping[str, object],
        code: Sequence[str],
        make: Callable[[Path, Advance], Mapping[str, object] | None],
        reason: str = "",
    ) -> Path:
        """Give the result of a stage: from the cache when its inputs are the same, else made and shown.

        Args:
            inputs: all that the result depends on, beside tools and code.
            code: the builder's files that decide what the result looks like.
            make: fills an empty folder, whose parent is a workspace that is removed afterwards; returns inputs that
                became known only by doing so.
            reason: what the user should know before a long wait.

        Returns:
            The result's folder, whose name is its content id.

        Raises:
            WouldMakeError: it would have to be made, and nothing is to be made; besides, what `make` raises.
        """
        inputs = self.complete(inputs, code)
        if entry := self.cache.find(stage, content_id(inputs)):
            self.stages.reused(stage.label)
            return entry
        if self.planning:
            raise WouldMakeError(stage, inputs)
        with self.stages.stage(stage.label, reason) as advance:
            return self.cache.produce(stage, stage.label, inputs, lambda made: make(made, advance))
