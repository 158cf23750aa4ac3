"""Calls that are waited for until a moment and no longer, since what they ask may hang."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, ParamSpec, TypeVar

_P = ParamSpec("_P")
_T = TypeVar("_T")


class Late(Exception):
    """A call is not done in time; it is given up, and goes on by itself."""


class Pending(Generic[_T]):
    """A call that is under way."""

    def __init__(self, call: Callable[[], _T]) -> None:
        self._call = call
        self._result: list[_T] = []
        self._error: Exception | None = None
        # A daemon: neither who waits nor the end of the program waits for whoever does not answer.
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._result.append(self._call())
        except Exception as error:  # raised again where the result is wanted
            self._error = error

    def result(self, until: float) -> _T:
        """Wait for the result.

        Args:
            until: a moment of `time.monotonic()`.

        Raises:
            Late: there is none by then.
            Exception: what the call has raised.
        """
        self._thread.join(max(0.0, until - time.monotonic()))
        if self._error is not None:
            raise self._error
        if not self._result:
            raise Late
        return self._result[0]


def begin(function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> Pending[_T]:
    """Call a function and go on at once."""
    return Pending(lambda: function(*args, **kwargs))
