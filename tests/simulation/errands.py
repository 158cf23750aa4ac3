"""Home's errands without a thread: each runs at any moment until its result is wanted, as chance will have it."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TypeVar

from tests.simulation.disk import Cut

_T = TypeVar("_T")


class ChanceErrands:
    """Runs errands in their order (home.drain_errands.Errands).

    Args:
        off: whether the machine is off, so that nothing runs any more.
    """

    def __init__(self, chance: random.Random, off: Callable[[], bool]) -> None:
        self._chance, self._off = chance, off
        self._waiting: list[Callable[[], None]] = []

    def begin(self, errand: Callable[[], _T]) -> Callable[[], _T]:
        results: list[_T] = []
        errors: list[Exception] = []

        def run() -> None:
            try:
                results.append(errand())
            except Exception as error:  # raised again where the result is wanted; a cut is not
                errors.append(error)

        def result() -> _T:
            while not results and not errors:
                self._run_one()
            if errors:
                raise errors[0]
            return results[0]

        self._waiting.append(run)
        self.perhaps()
        return result

    def perhaps(self) -> None:
        """Let some of them happen now, or none."""
        while self._waiting and self._chance.random() < 0.5:
            self._run_one()

    def _run_one(self) -> None:
        if self._off():
            raise Cut
        self._waiting.pop(0)()
