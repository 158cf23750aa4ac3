"""What every stage of a build works with: tools, cache, archive, and somebody to tell how it goes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from builder.archive import Archive
from builder.cache import Cache, content_id
from builder.progress import Advance, Stages
from builder.sandbox import Sandbox


@dataclass(frozen=True)
class Workshop:
    """The mutable surroundings of a build; what is to be built is passed apart."""

    tools: Sandbox
    cache: Cache
    archive: Archive
    stages: Stages

    def stage(
        self,
        name: str,
        kind: str,
        inputs: Mapping[str, object],
        make: Callable[[Path, Advance], None],
        reason: str = "",
        *,
        replace: bool = False,
    ) -> Path:
        """Give the result of a stage: from the cache when its inputs are the same, else made and shown.

        Args:
            name: the stage as the user sees it.
            kind: the cache's folder for such results.
            inputs: all that the result depends on.
            make: fills an empty folder; its parent is a workspace that is removed afterwards.
            reason: what the user should know before a long wait.
            replace: make it anew although the inputs are the same; on failure the old result stays.

        Returns:
            The result's folder, whose name is its content id.
        """
        identifier = content_id(inputs)
        entry = self.cache.find(kind, identifier)
        if entry and not replace:
            self.stages.reused(name)
            return entry
        with self.stages.stage(name, reason) as advance:
            return self.cache.produce(kind, identifier, lambda made: make(made, advance), replace=replace)
