"""A refused site file, shown to its owner: the lines in question with numbered marks, and the reasons below."""

from __future__ import annotations

import textwrap
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from model.display import DisplayLine
from model.document import SiteError
from model.passwords import harmless_key
from model.problems import Path, Problem, Span, printable
from model.secrets import secret_spans
from model.yaml_faults import split_lines

_WIDTH = 80
_CONTEXT = 1
"""Lines shown before and after one with a mark."""

_MOST = 40
"""Problems shown at once; who has more will find the rest easier when these are mended."""

_BAR = " │ "


@dataclass
class _Marks:
    """One row of marks below a line; columns are those of the terminal, from 0."""

    text: str = ""

    def takes(self, column: int) -> bool:
        return not self.text or len(self.text) < column

    def add(self, column: int, mark: str) -> None:
        self.text = self.text.ljust(column) + mark


@dataclass
class _Labelled:
    """The labels, such as `E1`, of all problems at one span."""

    span: Span
    labels: list[str] = field(default_factory=list)

    @property
    def label(self) -> str:
        """All of them in one; problems are numbered by their places, so there is no gap."""
        return self.labels[0] if len(self.labels) == 1 else f"{self.labels[0]}-{self.labels[-1]}"


def annotate(error: SiteError) -> str:
    """Explain a refused site file in plain text for a terminal of 80 columns.

    Passwords, and what may be one, are hidden. The text ends without a line break.
    """
    shown = error.problems[:_MOST]
    count = len(error.problems)
    parts = [f"{printable(error.name)} cannot be used: {count} problem{'s' if count > 1 else ''}"]
    listing = "\n".join(_listing(error.text, shown))
    if listing:
        parts.append(listing)
    parts += [_footnote(label, problem) for label, problem in _numbered(shown)]
    if count > _MOST:
        parts.append(f"… and {count - _MOST} more. Mend these first.")
    return "\n\n".join(parts)


def _numbered(problems: Sequence[Problem]) -> Iterator[tuple[str, Problem]]:
    return ((f"E{number}", problem) for number, problem in enumerate(problems, start=1))


def _listing(text: str, problems: Sequence[Problem]) -> Iterator[str]:
    lines = split_lines(text)
    marks = _by_line(problems)
    wanted = _with_context(marks, lines)
    secrets = _Secrets(secret_spans(text) if marks else [])
    gutter = len(str(max(wanted, default=0))) + 2
    previous = wanted[0] - 1 if wanted else 0
    for number in wanted:
        if number > previous + 1:
            yield "…".rjust(gutter)
        previous = number
        line = DisplayLine(lines[number - 1], secrets.in_line(number, lines[number - 1]))
        yield from _shown_line(line, number, marks.get(number, []), gutter)


def _by_line(problems: Sequence[Problem]) -> Mapping[int, list[_Labelled]]:
    """Gather the problems that have a place by line, and those of one place in one mark."""
    placed = [(label, problem.span) for label, problem in _numbered(problems) if problem.span]
    places: dict[Span, _Labelled] = {}
    for label, span in placed:
        places.setdefault(span, _Labelled(span)).labels.append(label)
    ordered = sorted(places.values(), key=lambda place: place.span)
    return {line: list(group) for line, group in groupby(ordered, key=lambda place: place.span.line)}


def _with_context(marked: Iterable[int], lines: Sequence[str]) -> list[int]:
    """Give the numbers of the lines to show; an empty line at an edge tells nothing."""
    wanted: set[int] = set()
    for number in marked:
        near = range(max(1, number - _CONTEXT), min(len(lines), number + _CONTEXT) + 1)
        wanted |= {line for line in near if line == number or lines[line - 1].strip()}
    # A gap of one line takes as much room as the line.
    wanted |= {line + 1 for line in wanted if line + 2 in wanted}
    return sorted(wanted)


def _shown_line(line: DisplayLine, number: int, marks: Sequence[_Labelled], gutter: int) -> Iterator[str]:
    """Give a line and its marks; a line that is too long is shown once for each stretch that has marks."""
    room = _WIDTH - gutter - len(_BAR)
    waiting = list(marks)
    while True:
        first = line.columns[min(waiting[0].span.column, len(line.columns)) - 1] if waiting else 0
        window = line.window(first, room)
        yield f"{number:>{gutter}}{_BAR}{window.text}".rstrip()
        rows: list[_Marks] = []
        while waiting and (place := line.place(waiting[0].span, window)) is not None:
            column, width = place
            _add_mark(rows, column, width, waiting.pop(0).label, room)
        yield from (f"{'':>{gutter}}{_BAR}{row.text}" for row in rows)
        if not waiting:
            return


def _add_mark(rows: list[_Marks], column: int, width: int, label: str, room: int) -> None:
    mark = f"{'^' * width} {label}"
    if column + len(mark) > room and column > len(label):
        column, mark = column - len(label) - 1, f"{label} {'^' * width}"
    elif column + len(mark) > room:
        mark = f"{'^' * (room - column - len(label) - 1)} {label}"
    row = next((row for row in rows if row.takes(column)), None)
    if row is None:
        row = _Marks()
        rows.append(row)
    row.add(column, mark)


def _footnote(label: str, problem: Problem) -> str:
    place = _place(problem)
    rows = [("found", problem.found), ("expected", problem.expected), ("to do", problem.remedy)]
    indent = " " * 4
    texts = [
        textwrap.fill(
            printable(text),
            _WIDTH,
            initial_indent=f"{indent}{title:<9} ",
            subsequent_indent=indent + " " * 10,
            break_on_hyphens=False,
        )
        for title, text in rows
    ]
    return "\n".join([f"{label:<3} {place}" if place else label, *texts])


def _place(problem: Problem) -> str:
    parts = [f"line {problem.line}"] if problem.line else []
    keys = _keys(problem.path)
    return ", ".join([*parts, keys] if keys else parts)


def _keys(path: Path) -> str:
    names = (part for part in path if isinstance(part, str))
    return printable(".".join(name if harmless_key(name) else "…" for name in names))[: _WIDTH // 2]


class _Secrets:
    """The hidden spans, looked up by line."""

    def __init__(self, spans: Sequence[Span]) -> None:
        self._spans = spans
        self._lines = [span.line for span in spans]

    def in_line(self, number: int, line: str) -> list[tuple[int, int]]:
        """Give the stretches of a line to hide, as offsets from 0; the indentation of a line is never one."""
        stretches = []
        for span in self._spans[: bisect_right(self._lines, number)]:
            if span.end_line < number:
                continue
            start = span.column - 1 if span.line == number else len(line) - len(line.lstrip())
            end = span.end_column - 1 if span.end_line == number else len(line)
            if start < end:
                stretches.append((start, end))
        return stretches
