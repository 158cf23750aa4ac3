"""The owner's code for the device's page, in a file on the owner's computer: for a device without a screen."""

from __future__ import annotations

import secrets
import stat
from pathlib import Path

from builder.errors import BuildError
from model.owner_code import LARGEST, CodeError, parse_code
from stack.durable import write_once

_CHARACTERS = "abcdefghjkmnpqrstuvwxyz23456789"
"""Those that nobody takes for another when they are copied by hand."""
_GROUPS, _GROUP = 4, 4
"""79 bits in all: unlike a code of one start it can be guessed for as long as the device is new."""


def open_code(path: Path) -> str:
    """Give the code that stands in a file; one is made if there is no such file.

    Returns:
        It in the form of `model.owner_code.bare_code`.

    Raises:
        BuildError: others may read the file, it holds no code that would do, or it can be neither read nor written.
    """
    try:
        if not path.exists():
            groups = ("".join(secrets.choice(_CHARACTERS) for _ in range(_GROUP)) for _ in range(_GROUPS))
            write_once(path, f"{'-'.join(groups)}\n".encode(), 0o600)
        if (mode := stat.S_IMODE(path.stat().st_mode)) & 0o077:
            raise BuildError(
                f"{path}: found permissions {mode:04o}, expected 0600; whoever has the code can be the owner",
                f"chmod 0600 {path}; if somebody may have read it, delete it: the next build makes another one",
            )
        with path.open("rb") as file:
            return parse_code(file.read(LARGEST), path.name)
    except CodeError as error:
        raise BuildError(f"{path}: {error}", "or delete the file: then the build makes a code") from None
    except OSError as error:
        raise BuildError(f"{error.filename or path}: {error.strerror}", "name a file for the code") from error
