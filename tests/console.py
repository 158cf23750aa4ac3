"""A root shell on the serial console of an emulated machine."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import pexpect

_PROMPT = "tested> "
COMMAND_SECONDS = 600
"""A command may take so long when nothing else is said: an emulated machine is slow, and slower beside others."""


@dataclass(frozen=True)
class Outcome:
    """What a command on the machine did."""

    status: int
    output: str


class Console:
    """What a machine's first serial port shows, from power-on to power-off, and what is typed there.

    Args:
        command: starts the machine, with the console on its standard input and output.
        log: file that all it shows is added to.
        timeout: seconds that the machine may take to give a shell.
    """

    def __init__(self, command: Sequence[str], log: Path, timeout: float) -> None:
        self._log_file: TextIO = log.open("a", encoding="utf-8")
        self._child: pexpect.spawn[str] = pexpect.spawn(
            command[0], list(command[1:]), timeout=timeout, encoding="utf-8", codec_errors="replace"
        )
        self._child.logfile_read = self._log_file

    def log_in(self) -> None:
        """Wait for the shell that the console has after a start, and make it fit for programs."""
        self._child.expect(r"root@\S*:\S*# ")
        # The echo of what we type must not look like an answer, therefore the words are broken up.
        self._child.sendline(f"PS1='{_PROMPT[:3]}''{_PROMPT[3:]}' TERM=dumb SYSTEMD_PAGER=cat; stty -echo cols 500")
        self._child.expect_exact(_PROMPT)
        self._child.sendline("bind 'set enable-bracketed-paste off'; dmesg --console-off")
        self._child.expect_exact(_PROMPT)

    def run(self, command: str, timeout: float = COMMAND_SECONDS) -> Outcome:
        """Run a command line in the root shell.

        Returns:
            Its exit status and its output with line ends as on Unix.
        """
        self._child.sendline(f"{command}; echo \"status=\"$?'.'")
        self._child.expect(r"status=(\d+)\.", timeout=timeout)
        output = self._child.before or ""
        status = int(str(self._child.match.group(1)))  # type: ignore[union-attr]
        self._child.expect_exact(_PROMPT)
        return Outcome(status, output.replace("\r", "").strip())

    def reboot(self) -> None:
        """Restart in order; the next `log_in` is that of the next start."""
        self._child.sendline("systemctl reboot")
        self._child.expect("reboot: Restarting system", timeout=COMMAND_SECONDS)

    def power_off(self) -> None:
        """Shut down in order, if it still runs."""
        if self._child.isalive():
            self._child.sendline("systemctl poweroff")
            self._child.expect(pexpect.EOF, timeout=COMMAND_SECONDS)

    def expect(self, patterns: Sequence[str], timeout: float) -> int:
        """Wait until the console shows one of some patterns and tell which."""
        return int(self._child.expect(list(patterns), timeout=timeout))

    def type(self, line: str) -> None:
        """Type a line, whatever is asking for one."""
        self._child.sendline(line)

    def alive(self) -> bool:
        """Whether the machine still runs."""
        return self._child.isalive()

    def close(self) -> None:
        """End the machine as a power cut would."""
        self._child.close(force=True)
        self._log_file.close()


def plain(text: str) -> str:
    """Take escape sequences and carriage returns out of what a console has shown."""
    return re.sub(r"\x1b\[[0-9;?!]*[A-Za-z]|\r", "", text)
