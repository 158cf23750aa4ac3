"""The file in which home keeps how far it is with its keys. A secret."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from home.pairing import Kept, Keys, Own
from model.mtls import AnyHome, parse_home_end
from model.pairing import Counter, check_id
from stack.durable import write_atomically


class PairingError(Exception):
    """The state of pairing cannot be used; the text names the file and quotes nothing of it."""


@dataclass(frozen=True)
class Document:
    """What the file holds.

    Args:
        bootstrap: home's half of it. It is kept: a server that is built anew from the same user-data answers to it.
    """

    bootstrap: AnyHome
    kept: Kept


def dump(document: Document) -> str:
    """Write it as JSON."""
    data = {"bootstrap": document.bootstrap.model_dump(mode="json"), "kept": asdict(document.kept)}
    return json.dumps(data, ensure_ascii=False, indent=1, sort_keys=True) + "\n"


def load(text: str) -> Document:
    """Read what `dump` gave.

    Raises:
        PairingError: it is something else.
    """
    try:
        data: dict[str, Any] = json.loads(text)
        kept: dict[str, Any] = data["kept"]
        base, own, answer = kept["base"], kept["own"], kept["answer"]
        parts = {
            "base": base and Keys(Own(**base["own"]), Counter(**base["relay"])),
            "own": own and Own(**own),
            "answer": answer and Counter(**answer),
        }
        read_kept = Kept(**{**kept, **parts})
        check_id(read_kept.home)
        return Document(parse_home_end(data["bootstrap"]), read_kept)
    except (ValueError, LookupError, TypeError, ValidationError) as error:
        raise PairingError(f"the state of pairing is damaged ({type(error).__name__})") from None


def read(path: Path) -> Document | None:
    """Read the file; None when there is none.

    Raises:
        PairingError: it is damaged.
        OSError: it cannot be read.
    """
    try:
        return load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (UnicodeDecodeError, PairingError):
        raise PairingError(
            f"{path} is damaged: bring it back from a backup; or remove it, and let home have a new relay, from other "
            "user-data (`darkpipe relay replace`, or the device's page)"
        ) from None


def write(path: Path, document: Document) -> None:
    """Replace the file; on return it is on the disk."""
    write_atomically(path, dump(document).encode(), 0o600)
