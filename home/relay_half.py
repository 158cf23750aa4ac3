"""The relay's half of a bootstrap, where this device has made the user-data: it goes when it opens nothing any more."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import ValidationError

from model.mtls import AnyHome, parse_home_end

DRAFT = "user-data.json"
"""In home's folder for pairing; `home/relay_draft.py` writes it. A secret."""


def retire(folder: Path, home: AnyHome) -> None:
    """Remove the relay's half of a bootstrap that has done its work.

    Args:
        home: home's half of it. A draft with other keys, of a relay to come, stays.

    Raises:
        OSError: the disk has failed.
    """
    path = folder / DRAFT
    try:
        drafted = parse_home_end(json.loads(path.read_bytes())["bootstrap"]["home"])
    except FileNotFoundError:
        return
    except (ValueError, LookupError, TypeError, ValidationError):
        drafted = None  # nobody can make anything of it
    if drafted is None or drafted.private_key == home.private_key:
        path.unlink(missing_ok=True)
