"""Home's keys for what waits on the relay: age identities, of which only the public halves ever leave home.

`/data/queue-keys/identities` is a file as age-keygen(1) makes it. The relay encrypts to the key on top; others below
it, which somebody has put there, open as well. `recovery.pub` beside it, if it is there, holds the public half of the
key that follows from the recovery secret: by it the mail on the relay outlives this disk.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from pyrage import IdentityError, RecipientError, x25519

from stack.durable import write_atomically

IDENTITIES = "identities"
RECOVERY = "recovery.pub"

_COMMENT = "#"
_PUBLIC = re.compile(r"age1[02-9ac-hj-np-z]{58}")


class QueueKeyError(Exception):
    """A key cannot be used; the text names its file and quotes no secret."""


def ensure_identity(folder: Path, now: datetime | None = None) -> bool:
    """Make a key, unless there is one.

    Args:
        folder: the volume.
        now: for the comment beside the key.

    Returns:
        Whether it was made.

    Raises:
        QueueKeyError: there is a file without a key in it.
    """
    if (folder / IDENTITIES).exists():
        read_identities(folder / IDENTITIES)
        return False
    identity = x25519.Identity.generate()
    made = (now or datetime.now(UTC)).isoformat(timespec="seconds")
    text = f"# created: {made}\n# public key: {identity.to_public()}\n{identity}\n"
    write_atomically(folder / IDENTITIES, text.encode("ascii"), 0o600)
    return True


def read_identities(path: Path) -> Sequence[x25519.Identity]:
    """Read a file of identities, that on top first.

    Raises:
        QueueKeyError: there is none, or something else besides.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="ascii").splitlines()]
    except FileNotFoundError:
        raise QueueKeyError(f"{path} is missing: it is made by `darkpipe apply` when the site names a relay") from None
    except UnicodeDecodeError:
        raise QueueKeyError(f"{path} holds something else than age identities") from None
    try:
        found = [x25519.Identity.from_str(line) for line in lines if line and not line.startswith(_COMMENT)]
    except IdentityError:
        raise QueueKeyError(f"{path} holds something else than age identities") from None
    if not found:
        raise QueueKeyError(f"{path} holds no age identity")
    return found


def recipients(folder: Path) -> tuple[str, ...]:
    """Give the public keys that the relay is to encrypt to: home's, and the recovery key's if there is one.

    Raises:
        QueueKeyError: one of them cannot be used.
    """
    own = str(read_identities(folder / IDENTITIES)[0].to_public())
    recovery = _recovery(folder / RECOVERY)
    return (own,) if recovery is None else (own, recovery)


def _recovery(path: Path) -> str | None:
    try:
        text = path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return None
    except UnicodeDecodeError:
        text = ""
    try:
        if not _PUBLIC.fullmatch(text):
            raise RecipientError
        x25519.Recipient.from_str(text)
    except RecipientError:
        raise QueueKeyError(f"{path} holds something else than one public key of age (age1…)") from None
    return text
