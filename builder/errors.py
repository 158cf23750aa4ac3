"""The one error of the builder that reaches a user."""

from __future__ import annotations

import shlex
from collections.abc import Sequence


class BuildError(Exception):
    """Something that the user can act on.

    Args:
        message: what was found and what was expected.
        hint: what to do about it; empty when the message says it already.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class ToolError(BuildError):
    """A program that we called has failed.

    Args:
        argv: the command line as it was run; it is shown so that it can be pasted.
        status: its exit status, negative for a signal (subprocess.Popen.returncode).
        output: the end of what it printed.
    """

    def __init__(self, argv: Sequence[str], status: int, output: str) -> None:
        ending = f"ended by signal {-status}" if status < 0 else f"exit status {status}"
        shown = output.rstrip() or "(it printed nothing)"
        message = f"{_program(argv)} failed ({ending}):\n\n{shown}\n\nThe command was:\n\n  {shlex.join(argv)}"
        super().__init__(message, "call again with DARKPIPE_KEEP=1 to keep its files, and the command can be pasted")
        self.status = status
        self.output = output.rstrip()


def _program(argv: Sequence[str]) -> str:
    if "--" in argv:
        return argv[list(argv).index("--") + 1]
    return argv[0]
