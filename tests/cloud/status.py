"""What cloud-init says of its work."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class CloudInit:
    """What cloud-init says about itself (`cloud-init status --format=json`).

    Args:
        status: `done`, `error`, `disabled` …
        errors: what made it fail.
        recoverable: what went wrong and did not stop it, by its log level; only later versions tell.
    """

    status: str
    errors: Sequence[str]
    recoverable: Mapping[str, Sequence[str]]

    @classmethod
    def parse(cls, text: str) -> CloudInit:
        """Read the output of the command."""
        read = json.loads(text)
        return cls(read["status"], read["errors"], read.get("recoverable_errors", {}))

    @property
    def clean(self) -> bool:
        """Whether it did all, without a warning."""
        return self == CloudInit("done", [], {})
