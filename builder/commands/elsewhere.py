"""Handing a command on to the container in which builds run."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from builder.where import builds_here


def run_elsewhere(*arguments: str | Path | None, **options: str | bool | Path | None) -> None:
    """End the program with the exit status of the same command in a container; come back if builds run here.

    Args:
        arguments: of the command, without those that are not set; a path is that of a file or folder that it reads.
        options: by their names; True is a flag.

    Raises:
        BuildError: there is no container to be had.
        SystemExit: always, where builds do not run here.
    """
    if builds_here():
        return
    from builder.container import Given, given, run_in_container
    from builder.progress import Stages

    command = click.get_current_context().command_path.split()[1:]
    words = [Given(word) if isinstance(word, Path) else word for word in arguments if word is not None]
    sys.exit(run_in_container([*command, *words, *given(**options)], Stages()))
