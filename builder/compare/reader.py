"""Reading a part of a file as if it were a file."""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass


@dataclass(frozen=True)
class Reader:
    """A window on an open file.

    Args:
        descriptor: of the file.
        start: where the window begins.
        size: its length in bytes.
    """

    descriptor: int
    start: int
    size: int

    def read(self, at: int, length: int) -> bytes:
        """Give bytes of the window.

        Raises:
            ValueError: they lie outside.
        """
        if at < 0 or at + length > self.size:
            raise ValueError(f"byte {at + length:,} lies outside of {self.size:,}")
        return os.pread(self.descriptor, length, self.start + at)

    def unpack(self, form: str, at: int) -> tuple[int, ...]:
        """Read numbers; the form is struct's."""
        return struct.unpack(form, self.read(at, struct.calcsize(form)))

    def window(self, start: int, end: int) -> Reader:
        """Give a part of the window as a window."""
        self.read(end - 1, 1)
        return Reader(self.descriptor, self.start + start, end - start)
