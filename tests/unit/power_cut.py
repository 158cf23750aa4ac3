"""A power cut for the tests: the n-th change of the disk does not happen any more, nor does anything after it."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

_CHANGES = ("fsync", "mkdir", "rename", "replace", "rmdir", "symlink", "unlink")
"""What our code changes the disk with, besides writing into files that nobody reads before they are renamed."""


class PowerCut(BaseException):
    """Nobody catches it."""


@contextmanager
def power_cut(number: int) -> Iterator[None]:
    """Let `number` changes happen and cut the power at the next one."""
    left = number

    def cut(real: Callable[..., Any]) -> Callable[..., Any]:
        def change(*args: Any, **kwargs: Any) -> Any:
            nonlocal left
            if left <= 0:
                raise PowerCut
            left -= 1
            return real(*args, **kwargs)

        return change

    with pytest.MonkeyPatch.context() as patch:
        for name in _CHANGES:
            patch.setattr(os, name, cut(getattr(os, name)))
        yield


@contextmanager
def full_disk(number: int) -> Iterator[None]:
    """Let `number` changes happen and find no room for any later one; what was written before stays."""
    left = number

    def fill(real: Callable[..., Any]) -> Callable[..., Any]:
        def change(*args: Any, **kwargs: Any) -> Any:
            nonlocal left
            if left <= 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            left -= 1
            return real(*args, **kwargs)

        return change

    with pytest.MonkeyPatch.context() as patch:
        for name in _CHANGES:
            patch.setattr(os, name, fill(getattr(os, name)))
        yield


def at_every_step(attempt: Callable[[], object]) -> Iterator[int]:
    """Cut the power at each step in turn, until an attempt gets through; yields after each cut."""
    for number in range(1000):
        try:
            with power_cut(number):
                attempt()
        except PowerCut:
            yield number
        else:
            assert number > 0, "the attempt changed nothing"
            return
    raise AssertionError("more than 1000 steps")
