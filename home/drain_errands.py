"""What the drain lets be done while it hands a letter over: errands, run one after the other by one thread."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar

_T = TypeVar("_T")


class Errands(Protocol):
    """Runs errands in the order in which they were begun, never two at once."""

    def begin(self, errand: Callable[[], _T]) -> Callable[[], _T]:
        """Begin an errand, and go on at once.

        Returns:
            A function that waits for the errand's end, and gives its result or raises what it has raised.
        """


class Runner:
    """The `Errands` of one thread, which is there from the first errand on."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="errands")

    def begin(self, errand: Callable[[], _T]) -> Callable[[], _T]:
        """See `Errands`."""
        return self._pool.submit(errand).result
