"""Progress of long work: a bar on a terminal, plain lines elsewhere; always on standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

Advance = Callable[[float, str], None]
"""Tells how far a stage is: a fraction from 0 to 1, and a few words."""


class Stages:
    """Runs stages one after the other, shows each, and remembers how long it took, and which were not at hand."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(file=sys.stderr, highlight=False, soft_wrap=True)
        self.seconds: dict[str, float] = {}
        self.made: list[str] = []

    def say(self, text: str) -> None:
        """Print a line that is no stage."""
        self._console.print(text, markup=False)

    @contextmanager
    def stage(self, name: str, reason: str = "") -> Iterator[Advance]:
        """Show a stage while the block runs, and its time at the end.

        Args:
            name: a noun, unique among the stages of this work.
            reason: what the user should know beforehand, such as why it takes long.
        """
        started = time.monotonic()
        title = f"{name} ({reason})" if reason else name
        if self._console.is_terminal:
            with self._bar() as bar:
                task = bar.add_task(title, total=None, detail="")
                yield lambda fraction, detail: bar.update(task, completed=fraction, total=1.0, detail=detail[:40])
        else:
            self.say(f"{title} …")
            yield lambda fraction, detail: None
        seconds = time.monotonic() - started
        # A release has the same stages once for each platform.
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds
        self.made.append(name)
        self.say(f"{name}: {seconds:.1f} s")

    def reused(self, name: str) -> None:
        """Tell that a stage's result was at hand."""
        self.seconds.setdefault(name, 0.0)
        self.say(f"{name}: unchanged")

    def _bar(self) -> Progress:
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[detail]}", markup=False),
        )
        return Progress(*columns, console=self._console, transient=True)
