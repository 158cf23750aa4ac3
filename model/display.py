"""One line of a text as a terminal shows it: wide characters, hidden stretches, and a window when it is too long."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from model.problems import Span, printable

_HIDDEN = "********"
"""Stands for a secret of any length."""

_CUT = "…"
_TAB = "→"


@dataclass(frozen=True)
class Window:
    """A stretch of a displayed line; `start` and `end` are its columns in the whole line, from 0."""

    text: str
    start: int
    end: int
    lead: int
    """Columns that the sign for “cut off here” takes at the beginning."""


class DisplayLine:
    """A line in which each character has a known column.

    Args:
        line: without its end.
        hidden: stretches to hide, as offsets from 0 into `line`.
    """

    def __init__(self, line: str, hidden: Sequence[tuple[int, int]]) -> None:
        self._cells: list[str] = []
        """What stands in each column; the second column of a wide character is empty."""
        self.columns: list[int] = []
        """The column of each character of `line`, and the one behind the last."""
        covered = {offset for start, end in hidden for offset in range(start, end)}
        for offset, character in enumerate(line):
            if offset in covered and offset - 1 in covered:
                self.columns.append(self.columns[-1])
                continue
            self.columns.append(len(self._cells))
            if offset in covered:
                self._cells.extend(_HIDDEN)
            else:
                self._add(character)
        self.columns.append(len(self._cells))

    def window(self, column: int, room: int) -> Window:
        """Give the stretch around a column that fits into `room` columns."""
        if len(self._cells) <= room:
            return Window("".join(self._cells), 0, len(self._cells) + 1, 0)
        # A third of the room goes to what stands before the column.
        start = max(0, min(column - room // 3, len(self._cells) - room + 1))
        lead = len(_CUT) if start else 0
        end = start + room - lead
        cut_end = ""
        if end < len(self._cells):
            cut_end = _CUT
            end -= len(_CUT)
        cells = self._cells[start:end]
        if cells and not cells[0]:
            cells[0] = " "
        text = "".join(cells)
        return Window(f"{_CUT if lead else ''}{text}{cut_end}", start, end, lead)

    def place(self, span: Span, window: Window) -> tuple[int, int] | None:
        """Give column and width of a span inside a window, or None when it begins elsewhere."""
        last = len(self.columns) - 1
        start = self.columns[min(span.column - 1, last)]
        end = self.columns[min(span.end_column - 1, last)] if span.end_line == span.line else self.columns[-1]
        if not window.start <= start < max(window.end, window.start + 1):
            return None
        width = max(1, min(end, window.end) - start)
        return start - window.start + window.lead, width

    def _add(self, character: str) -> None:
        if character == "\t":
            self._cells.append(_TAB)
        elif unicodedata.combining(character) and self._cells:
            self._cells[-1] += character
        else:
            self._cells.append(printable(character))
            if unicodedata.east_asian_width(character) in "WF":
                self._cells.append("")
