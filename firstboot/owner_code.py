"""The owner's own code, in a file on the boot partition: for a device without a screen, in place of the console's.

Whoever holds the card before the site is taken over can read it, and be the owner. It is taken over with the site, to
where the administrator's page is claimed by it once, and is gone from the card then.
"""

from __future__ import annotations

from pathlib import Path

from firstboot.wipe import wipe
from model.owner_code import CODE_NAME, LARGEST, CodeError, bare_code, parse_code
from stack.durable import write_atomically

KEPT = Path("page/first-code")
"""Below `data`, until somebody has claimed the page."""


def read_code(boot: Path) -> str | None:
    """Read the code, in the form of `bare_code`; None when there is no file.

    Args:
        boot: folder with the boot partition.

    Raises:
        CodeError: it would not do.
        OSError: the partition fails.
    """
    path = boot / CODE_NAME
    if not path.is_file():
        longer = f"{CODE_NAME}.txt"
        if (boot / longer).is_file():
            raise CodeError(f"there is a file {longer}, and {CODE_NAME} is what counts: rename it")
        return None
    with path.open("rb") as file:
        return parse_code(file.read(LARGEST), path.name)


def take_code(boot: Path, kept: Path, *, fresh: bool) -> str:
    """Move the code from the boot partition to where the page is claimed by it; before the site is taken over.

    Cut off by the power at any step, it lies on one of the two, and doing it again is harmless.

    Args:
        boot: folder with the boot partition.
        kept: file that holds it from then on, for root only.
        fresh: whether the device has no site yet; one that has obeys no code from a card, and wipes it unread.

    Returns:
        Why it is not taken; empty when it is, or when there is none.

    Raises:
        OSError: it cannot be kept; then it stays where it is.
    """
    path = boot / CODE_NAME
    refusal = ""
    if fresh:
        try:
            if code := read_code(boot):
                write_atomically(kept, code.encode(), 0o600)
        except CodeError as error:
            # Unless the power went while it was wiped.
            refusal = "" if kept.exists() else str(error)
    if path.is_file():
        wipe(path)
    return refusal


def read_kept_code(kept: Path) -> str:
    """Read what `take_code` has kept; empty when there is none.

    Raises:
        OSError: the disk fails.
    """
    try:
        return bare_code(kept.read_text(encoding="ascii", errors="replace"))
    except FileNotFoundError:
        return ""
