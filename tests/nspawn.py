"""A machine under systemd-nspawn: switched on and off, and entered from outside."""

from __future__ import annotations

import os
import signal
import subprocess
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Self

_BOOT_TIMEOUT = 120.0
_STOP_TIMEOUT = 60.0


class MachineError(Exception):
    """The machine did not come up or down; the text has the end of its console."""


class Container(ABC):
    """One machine, off at first.

    Args:
        scratch: a folder for its console and what it keeps.
        boot_timeout: seconds that it may take to come up.
    """

    def __init__(self, scratch: Path, boot_timeout: float = _BOOT_TIMEOUT) -> None:
        self._scratch = scratch
        self._boot_timeout = boot_timeout
        self._process: subprocess.Popen[bytes] | None = None
        self._leader = 0
        self._cgroup: Path | None = None
        self._starts = 0
        self._uuid = uuid.uuid4()

    @abstractmethod
    def _options(self) -> Sequence[str]:
        """Prepare a start and give the options of systemd-nspawn(1): root, volumes, network."""

    def _prefix(self) -> Sequence[str]:
        """The words in front of systemd-nspawn."""
        return ()

    @property
    def leader(self) -> int:
        """Process id of its systemd; 0 while it is off."""
        return self._leader

    @property
    def console(self) -> str:
        """All that was written to the console since the machine was last started."""
        return self._console_path.read_text(errors="replace")

    @property
    def _console_path(self) -> Path:
        return self._scratch / f"console-{self._starts}"

    def start(self) -> Self:
        """Switch on and wait until systemd has nothing left to start.

        Raises:
            MachineError: it does not come up in time.
        """
        self._starts += 1
        command = [
            *self._in_cgroup(),
            *self._prefix(),
            "systemd-nspawn",
            "--quiet",
            "--register=no",
            # Otherwise it asks for this computer's machine id, which a system that was never booted lacks.
            "--link-journal=no",
            # The machine has a time zone of its own.
            "--timezone=off",
            f"--machine=darkpipe-{os.getpid()}-{id(self) & 0xFFFF:x}",
            # The same machine from start to start.
            f"--uuid={self._uuid}",
            *([] if self._cgroup is None else ["--keep-unit"]),
            *self._options(),
            "--console=read-only",
            "--boot",
        ]
        # systemd 257 in the container runs with cgroup v2 only (systemd-nspawn(1), environment).
        environment = {**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1", "UNIFIED_CGROUP_HIERARCHY": "1"}
        with self._console_path.open("wb") as console:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
                env={**environment, **self._environment()},
                # Ctrl-C belongs to pytest, whose fixtures power the machine off.
                start_new_session=True,
            )
        self._wait_for_boot()
        return self

    def _environment(self) -> dict[str, str]:
        """Further environment variables of systemd-nspawn."""
        return {}

    def stop(self) -> None:
        """Power off as a person does, and wait until it is off."""
        if self._process is None:
            return
        # SIGTERM to nspawn asks the container's systemd to power off; SIGKILL would leave it running as an orphan.
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(_STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.send_signal(signal.SIGTERM)  # the second one ends the container at once
            self._process.wait(_STOP_TIMEOUT)
            raise MachineError(f"the machine did not power off:\n{self.console[-3000:]}") from None
        finally:
            self._process = None
            self._leave_cgroup()

    def pull_plug(self) -> None:
        """End all its processes at once. What they had written to files stays, since the kernel is this computer's."""
        assert self._process is not None, "the machine is off"
        # With the first process of a PID namespace the kernel ends all others (pid_namespaces(7)), then nspawn ends.
        os.kill(self._leader, signal.SIGKILL)
        self._process.wait(_STOP_TIMEOUT)
        self._process = None
        self._leave_cgroup()

    def restart(self) -> Self:
        """Power off and on again."""
        self.stop()
        return self.start()

    def run(self, *argv: str, check: bool = True, stdin: bytes = b"") -> str:
        """Run a command inside, as root.

        Returns:
            What it printed, errors included.
        """
        done = subprocess.run(
            [*self.enter, *argv],
            input=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        output = done.stdout.decode(errors="replace")
        if check and done.returncode != 0:
            raise AssertionError(f"{' '.join(argv)} gave {done.returncode}:\n{output}")
        return output

    @property
    def enter(self) -> Sequence[str]:
        """The words in front of a command that let it run inside, as root."""
        return ["nsenter", f"--target={self._leader}", "--all", "--"]

    def failed_units(self) -> list[str]:
        """Names of the units that failed."""
        listed = self.run("systemctl", "list-units", "--failed", "--plain", "--no-legend", "--full")
        return [line.split()[0] for line in listed.splitlines()]

    def _in_cgroup(self) -> Sequence[str]:
        """The words in front of systemd-nspawn that put it into a cgroup of its own."""
        if Path("/run/systemd/system").is_dir():
            return []  # systemd-nspawn has the systemd outside make one
        self._cgroup = _cgroup2() / f"darkpipe-{os.getpid()}-{self._uuid}"
        self._cgroup.mkdir(exist_ok=True)
        return ["sh", "-c", 'echo $$ >"$0/cgroup.procs" && exec "$@"', str(self._cgroup)]

    def _leave_cgroup(self) -> None:
        if self._cgroup:
            for folder in sorted((path for path in self._cgroup.rglob("*") if path.is_dir()), reverse=True):
                folder.rmdir()
            self._cgroup.rmdir()
            self._cgroup = None

    def _wait_for_boot(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + self._boot_timeout
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise MachineError(f"systemd-nspawn ended with {self._process.returncode}:\n{self.console[-3000:]}")
            if self._find_leader() and self._is_up():
                return
            time.sleep(0.1)
        console = self.console[-3000:]
        self.stop()
        raise MachineError(f"the machine was not up after {self._boot_timeout:.0f} s:\n{console}")

    def _find_leader(self) -> bool:
        assert self._process is not None
        pid = self._process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        self._leader = int(children[0]) if len(children) == 1 else 0
        return bool(self._leader)

    def _is_up(self) -> bool:
        state = self.run("systemctl", "is-system-running", check=False).strip()
        return state in {"running", "degraded"}


def _cgroup2() -> Path:
    for row in Path("/proc/self/mounts").read_text().splitlines():
        _, mount_point, kind, *_ = row.split()
        if kind == "cgroup2":
            return Path(mount_point)
    raise MachineError("this computer has no cgroup2 file system mounted")
