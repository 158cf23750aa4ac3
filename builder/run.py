"""The one way in which the builder runs another program."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO

from builder.errors import BuildError, ToolError

_KEPT_LINES = 40
_WITH_US = ("setpriv", "--pdeathsig", "KILL", "--")
"""A build that is killed must not leave a mmdebstrap behind that goes on writing (PR_SET_PDEATHSIG(2const))."""


def run(
    argv: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    stdin: IO[bytes] | None = None,
    stdout: IO[bytes] | None = None,
    on_line: Callable[[str], None] | None = None,
) -> str:
    """Run a program to its end.

    Args:
        argv: the command line.
        environment: variables added to our own environment.
        stdin: where it reads from; nothing by default.
        stdout: where its standard output goes; by default it is collected with the error output.
        on_line: called with each line that is collected, for progress.

    Returns:
        The last lines of what it printed and was not sent to `stdout`.

    Raises:
        ToolError: its exit status was not 0.
        BuildError: the program is not there.
    """
    with _started(argv, environment, stdin, stdout) as process:
        collected: deque[str] = deque(maxlen=_KEPT_LINES)
        for line in _lines(process):
            collected.append(line)
            if on_line:
                on_line(line)
        status = process.wait()
    output = "\n".join(collected)
    if status:
        raise ToolError(argv, status, output)
    return output


def _lines(process: subprocess.Popen[bytes]) -> Iterator[str]:
    stream = process.stdout or process.stderr
    assert stream is not None  # one of the two is always a pipe
    for line in stream:
        yield line.decode(errors="replace").rstrip("\r\n")


@contextmanager
def _started(
    argv: Sequence[str], environment: Mapping[str, str] | None, stdin: IO[bytes] | None, stdout: IO[bytes] | None
) -> Iterator[subprocess.Popen[bytes]]:
    if not shutil.which(argv[0]):
        raise BuildError(f"{argv[0]} is not installed", "install it, or call ./darkpipe, which does so by itself")
    process = subprocess.Popen(
        [*_WITH_US, *argv],
        env={**os.environ, **(environment or {})},
        stdin=stdin or subprocess.DEVNULL,
        stdout=stdout or subprocess.PIPE,
        stderr=subprocess.PIPE if stdout else subprocess.STDOUT,
    )
    try:
        yield process
    except BaseException:
        # An interrupted build must not leave a mmdebstrap running behind it. unshare(1) ignores SIGTERM while it waits;
        # with --kill-child its own end is the end of all that runs in it.
        process.kill()
        process.wait()
        raise
    finally:
        for stream in (process.stdout, process.stderr):
            if stream:
                stream.close()
