"""A QR code for a console of 80 columns and 25 rows (ISO/IEC 18004), two modules to a character."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

_COLUMNS = 80
_LARGEST = 2
"""The version of the largest code, which has 25 modules and 32 octets: beside it there is room for a fingerprint."""

_BORDER = 2
"""Light modules around it. The norm wants four; readers need fewer, and a screen has no room for them."""

_GAP = 2
WIDTH_BESIDE = _COLUMNS - (17 + 4 * _LARGEST + 2 * _BORDER) - _GAP
"""Characters that fit beside a code."""

# Light on black, whatever the terminal's own colours are (console_codes(4)).
_ON, _OFF = "\033[97;40m", "\033[0m"
_HALVES = {(True, True): " ", (True, False): "▄", (False, True): "▀", (False, False): "█"}  # dark above, dark below


def qr_code(text: str) -> tuple[str, ...]:
    """Draw a text, rows of equal width; none if its code would leave no room for what stands beside it."""
    # Only where somebody looks at it: whoever imports this may have no such library.
    import segno

    try:
        made = segno.make_qr(text, version=_LARGEST, error="l")
    except segno.DataOverflowError:
        return ()
    rows = [[bool(module) for module in row] for row in made.matrix_iter(border=_BORDER)]
    pairs = zip_longest(rows[::2], rows[1::2], fillvalue=[True] * len(rows[0]))
    return tuple("".join(_HALVES[pair] for pair in zip(*pair_of_rows, strict=True)) for pair_of_rows in pairs)


def beside_code(texts: Sequence[str], lines: Sequence[str]) -> str:
    """Write lines beside a code; without one when each text is too long.

    Args:
        texts: the first one that is short enough becomes the code.
        lines: of at most `WIDTH_BESIDE` characters each.
    """
    code = next(filter(None, map(qr_code, texts)), None)
    if code is None:
        return "\n".join(lines)
    none = " " * len(code[0])
    rows = zip_longest((f"{_ON}{row}{_OFF}" for row in code), lines)
    return "\n".join(f"{row or none}{' ' * _GAP}{line or ''}".rstrip() for row, line in rows)
