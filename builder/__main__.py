"""`python -m builder` is the computer's `darkpipe`."""

from __future__ import annotations

from builder.cli import main

main()
