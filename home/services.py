"""Services that run, and what they have to do with a new configuration."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Sequence

from stack.stack import Stack


class ServiceError(Exception):
    """A service does not come up with its new configuration; the text names it."""


def restart(names: Sequence[str]) -> None:
    """Restart those of some services that run: what somebody has stopped stays stopped.

    Raises:
        ServiceError: one did not come up.
    """
    if not names:
        return
    units = [f"{name}.service" for name in names]
    done = subprocess.run(
        ["systemctl", "try-restart", *units], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode != 0:
        raise ServiceError(
            f"the new configuration is in force, but not every service came up with it.\n{done.stdout.strip()}\n"
            f"Look at `systemctl status {' '.join(units)}`."
        )


def end_sessions(stack: Stack, address: str) -> None:
    """End the sessions of somebody whose password was changed, or who is no user any more."""
    # Daemons look whether their file of users has changed at most once a second (`Service.rereads`): whoever is thrown
    # out before that might come in again.
    time.sleep(1)
    for command in stack.session_ends(address):
        # It fails when there is no session, and when the service does not run.
        subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
