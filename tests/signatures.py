"""An independent judge of DKIM signatures: dkimpy, as Debian has it (dkim_judge.py)."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Verdict:
    """What is to be thought of one signature."""

    selector: str
    domain: str
    good: bool


def judge(message: bytes, records: Mapping[str, str]) -> list[Verdict]:
    """Judge each DKIM signature of a message, from the top.

    Args:
        records: the TXT records that there are in the world.
    """
    done = subprocess.run(
        ["/usr/bin/python3", str(Path(__file__).with_name("dkim_judge.py"))],
        input=json.dumps(records).encode() + b"\n" + message,
        capture_output=True,
        check=True,
    )
    return [Verdict(**found) for found in json.loads(done.stdout)]
