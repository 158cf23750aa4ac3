"""The version of DarkPipe, one for computer, device and relay."""

from __future__ import annotations

VERSION = "0.1.0"
"""The same as in pyproject.toml (a test compares the two)."""
