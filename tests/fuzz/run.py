"""Runs one target under atheris, in a process of its own: libFuzzer ends the process that it runs in."""

from __future__ import annotations

import sys
from importlib import import_module


def main() -> None:
    """Fuzz the target that the first argument names; the others are libFuzzer's."""
    atheris = import_module("atheris")  # it comes without types
    with atheris.instrument_imports(include=["relay", "model", "home", "h11", "tests.fuzz"]):
        from tests.fuzz.targets import TARGETS
    name = sys.argv[1]
    atheris.Setup([sys.argv[0], *sys.argv[2:]], TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
