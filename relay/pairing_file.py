"""The file in which the relay keeps how far it is with its keys. A secret."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from model.pairing import Counter, check_id
from relay import files
from relay.pairing import Kept, Keys


class DamagedError(Exception):
    """The file cannot be read; the text quotes nothing of it."""


def dump(kept: Kept) -> str:
    """Write it as JSON."""
    return json.dumps(asdict(kept), ensure_ascii=False, indent=1, sort_keys=True) + "\n"


def load(text: str) -> Kept:
    """Read what `dump` gave.

    Raises:
        DamagedError: it is something else.
    """
    try:
        data: dict[str, Any] = json.loads(text)
        following, answer = data["next"], data["answer"]
        halves = {
            "base": Keys(**data["base"]),
            "next": following and Keys(**following),
            "answer": answer and Counter(**answer),
        }
        kept = Kept(**{**data, **halves})
        check_id(kept.relay)
    except (ValueError, LookupError, TypeError) as error:
        raise DamagedError(f"the state of pairing is damaged ({type(error).__name__})") from None
    return kept


def read(path: Path) -> Kept | None:
    """Read the file; None when there is none.

    Raises:
        DamagedError: it is damaged.
        OSError: it cannot be read.
    """
    try:
        return load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except UnicodeDecodeError:
        raise DamagedError(f"{path} is damaged") from None


def write(path: Path, kept: Kept) -> None:
    """Replace the file; on return it is on the disk."""
    files.replace(path, dump(kept).encode())
