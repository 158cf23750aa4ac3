"""Running tools: output, progress lines, and errors that can be pasted."""

from __future__ import annotations

import shlex
import subprocess
import time
from pathlib import Path

import pytest

from builder.errors import BuildError, ToolError
from builder.run import run


def test_output_and_lines() -> None:
    lines: list[str] = []
    assert run(["printf", "one\\ntwo\\n"], on_line=lines.append) == "one\ntwo"
    assert lines == ["one", "two"]


def test_standard_output_can_go_to_a_file(tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as file:
        assert run(["sh", "-c", "echo kept; echo shown >&2"], stdout=file) == "shown"
    assert (tmp_path / "out").read_text() == "kept\n"


def test_failure_shows_output_and_a_command_that_can_be_pasted() -> None:
    argv = ["sh", "-c", "echo 'it is broken'; exit 3"]
    with pytest.raises(ToolError, match="exit status 3") as caught:
        run(argv)
    message = str(caught.value)
    assert "it is broken" in message
    pasted = message.rsplit("\n\n  ", 1)[1]
    assert shlex.split(pasted) == argv
    assert subprocess.run(pasted, shell=True, capture_output=True, check=False).returncode == 3


def test_signal_is_named() -> None:
    with pytest.raises(ToolError, match="ended by signal 9"):
        run(["sh", "-c", "kill -9 $$"])


def test_missing_program() -> None:
    with pytest.raises(BuildError, match="no-such-tool is not installed"):
        run(["no-such-tool"])


def test_interruption_ends_the_tool_at_once_even_if_it_ignores_sigterm() -> None:
    """As unshare(1) does, below which mmdebstrap works for minutes."""

    def interrupt(_: str) -> None:
        raise KeyboardInterrupt

    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run(["sh", "-c", "trap '' TERM; echo started; exec sleep 60"], on_line=interrupt)
    assert time.monotonic() - started < 30
