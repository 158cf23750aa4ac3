"""Why the device has no configuration, for the page that is there until then (`firstboot/page/without_site.py`)."""

from __future__ import annotations

import contextlib
from pathlib import Path

from model.document import SiteError
from stack.durable import write_atomically

REASON = Path("/run/darkpipe-why/text")
LEFT_OUT = Path("/run/darkpipe/left-out")
"""What of the device's settings could not take effect, for its status (`firstboot/settings.py`)."""

_MOST = 40
"""Problems told at once, as by `model.report.annotate`: some other file of that name has thousands."""


def reason(error: Exception) -> str:
    """Say what is wrong, a line for each problem; of a site's text, no line is quoted, since it may hold a secret."""
    if not isinstance(error, SiteError):
        return str(error)
    places = ((f"line {one.line}: " if one.line else "", one) for one in error.problems[:_MOST])
    rows = [
        f"{place}found {one.found}, expected {one.expected.rstrip('.')}. To do: {one.remedy}" for place, one in places
    ]
    more = len(error.problems) - _MOST
    rest = [f"… and {more} more. Mend these first."] if more > 0 else []
    return "\n".join([f"{Path(error.name).name} on the boot partition cannot be used.", *rows, *rest])


def keep_reason(text: str, path: Path = REASON) -> None:
    """Keep it for everybody to read; where that fails, the console has said it all the same."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(mode=0o755, exist_ok=True)
        path.parent.chmod(0o755)  # whatever the umask
        write_atomically(path, f"{text}\n".encode(), 0o644)


def forget_reason(path: Path = REASON) -> None:
    """Take it away: there is a configuration."""
    with contextlib.suppress(OSError):
        path.unlink()
