"""Who home is for this relay: files that the agent writes, and each listener of the control plane reads."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Identity:
    """The two that speak.

    Args:
        relay: the relay's id; empty before pairing.
        home: home's id; empty before pairing.
        home_epoch: the lowest of home that is served.
    """

    relay: str = ""
    home: str = ""
    home_epoch: int = 0

    @classmethod
    def read(cls, config: Path) -> Identity:
        """Read `relay.json` and `fence.json` in a folder.

        Raises:
            OSError: one of them cannot be read.
            ValueError: one of them is damaged.
        """
        relay = json.loads((config / "relay.json").read_text(encoding="utf-8"))
        fence = json.loads((config / "fence.json").read_text(encoding="utf-8"))
        try:
            return cls(str(relay["relay"]), str(fence["home"]), int(fence["home_epoch"]))
        except (LookupError, TypeError) as error:
            raise ValueError(f"{config}: relay.json or fence.json is damaged: {type(error).__name__}") from None
