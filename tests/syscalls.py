"""Faults at system calls, by strace(1): a process is killed at, or sees fail, the n-th call of a name that it makes.

One run without a fault tells which calls there are; what only reads is left out, all others are walked. The process
alone is traced: its children end with it, as in a power cut, but their own calls are not counted. A cut in the middle
of a child's work is a cut at the parent's wait4(2), which is walked too.

What a kill cannot show is what the kernel had not yet written to the disk; tests/power is about that.
"""

from __future__ import annotations

import ctypes
import os
import re
import select
import shutil
import signal
import subprocess
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

_SECONDS = 120
_PR_SET_PTRACER = 0x59616D61  # <linux/prctl.h>
_ANYBODY = ctypes.c_ulong(-1)
_LINE = re.compile(r"^(?P<name>[a-z0-9_]+)\((?P<arguments>.*)$")

_OPENS = {"open", "openat", "openat2", "creat"}
_OPENS_TO_CHANGE = re.compile(r"O_(WRONLY|RDWR|CREAT|TRUNC|TMPFILE)")

_ONLY_READ = {
    *("access", "faccessat", "faccessat2", "close", "close_range", "dup", "dup2", "dup3", "epoll_create1", "fcntl"),
    *("fstat", "fstatfs", "getcwd", "getdents64", "ioctl", "lseek", "lstat", "newfstatat", "pipe", "pipe2", "poll"),
    *("pread64", "read", "readlink", "readlinkat", "readv", "select", "pselect6", "ppoll", "stat", "statfs", "statx"),
    *("fadvise64", "getxattr", "lgetxattr", "fgetxattr", "listxattr", "chdir", "fchdir", "umask"),
    *("arch_prctl", "brk", "futex", "getrandom", "madvise", "mmap", "mprotect", "mremap", "munmap", "prctl", "rseq"),
    *("set_robust_list", "set_tid_address", "prlimit64", "sysinfo", "uname", "sched_getaffinity", "restart_syscall"),
    *("getegid", "geteuid", "getgid", "getpid", "getppid", "gettid", "getuid", "getgroups", "setsid", "getrusage"),
    *("rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "sigaltstack", "clock_gettime", "clock_nanosleep", "times"),
    *("socket", "connect", "sendto", "recvfrom", "recvmsg", "sendmsg", "getsockname", "getpeername", "setsockopt"),
    *("setns", "clock_getres", "mincore", "getrlimit", "fgetattr", "pidfd_open", "exit", "execve"),
}
"""Calls that change no file and start and await no process."""

_PROCESSES = {"clone", "clone3", "fork", "vfork", "wait4", "waitid", "exit_group", "kill"}
"""Calls at which a process can be cut, but which no full disk makes fail."""


_GATE = 'read -r _; exec "$0" "$@" </dev/null'
"""A shell that becomes the command as soon as its standard input is closed."""


class Fault(StrEnum):
    """What happens at a call, in strace's words (`--inject`)."""

    KILL = "signal=KILL"
    NO_SPACE = "error=ENOSPC"
    BROKEN_DISK = "error=EIO"


@dataclass(frozen=True)
class Call:
    """The `number`-th call of a name (from 1) that the process makes."""

    name: str
    number: int
    text: str

    def __str__(self) -> str:
        return f"{self.name} no. {self.number}: {self.text}"

    @property
    def touches_files(self) -> bool:
        """Whether a disk can make it fail."""
        return self.name not in _PROCESSES


@dataclass(frozen=True)
class Ended:
    """How a traced process ended.

    Args:
        status: its exit status, or the negative number of the signal.
        output: what it printed.
        trace: strace's lines.
    """

    status: int
    output: str
    trace: str

    @property
    def killed(self) -> bool:
        """Whether it was cut."""
        return self.status == -signal.SIGKILL


def why_not() -> str | None:
    """Say what this computer lacks; None when nothing."""
    return None if shutil.which("strace") else "missing Debian packages: strace"


def changing_calls(trace: str) -> list[Call]:
    """List the calls of a trace that may change a file or wait for a process, in their order."""
    counted: Counter[str] = Counter()
    calls = []
    for line in trace.splitlines():
        if not (match := _LINE.match(line)):
            continue
        name, arguments = match["name"], match["arguments"]
        counted[name] += 1
        if name in _ONLY_READ or (name in _OPENS and not _OPENS_TO_CHANGE.search(arguments)):
            continue
        calls.append(Call(name, counted[name], line))
    return calls


def trace_command(
    enter: Sequence[str], command: Sequence[str], scratch: Path, fault: tuple[Call, Fault] | None = None
) -> Ended:
    """Run a command in a container under a strace that runs outside.

    Args:
        enter: words in front of a command that let it run inside, as a child of theirs (nsenter(1)).
    """
    log = scratch / "trace"
    process = subprocess.Popen(
        [*enter, "sh", "-c", _GATE, *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert process.stdin is not None
    try:
        with _strace(_child_at_the_gate(process.pid), log, fault):
            process.stdin.close()
        status = process.wait(_SECONDS)
    finally:
        _kill_group(process.pid)
        process.wait()
    assert process.stdout is not None
    with process.stdout:
        output = process.stdout.read()
    return Ended(status, output, log.read_text(errors="replace"))


def trace_function(action: Callable[[], object], scratch: Path, fault: tuple[Call, Fault] | None = None) -> Ended:
    """Call a function in a process of its own, under strace.

    It is a fork of this one, with all modules loaded: that is ten times cheaper than a new interpreter. Its exit
    status is 0, or 1 after an exception, whose traceback is its output.
    """
    log, output = scratch / "trace", scratch / "output"
    reading, writing = os.pipe()
    heard, ready = os.pipe()
    pid = os.fork()
    if pid == 0:
        _become_traced(action, output, reading, writing, ready)
    os.close(reading)
    os.close(ready)
    try:
        # Attached any earlier, strace would count calls of our own.
        os.read(heard, 1)
        os.close(heard)
        with _strace(pid, log, fault):
            os.close(writing)
    finally:
        _kill_group(pid)
        _, status = os.waitpid(pid, 0)
    text = output.read_text(errors="replace") if output.exists() else ""
    return Ended(os.waitstatus_to_exitcode(status), text, log.read_text(errors="replace"))


@contextmanager
def _strace(pid: int, log: Path, fault: tuple[Call, Fault] | None) -> Iterator[None]:
    """Trace a process that waits, have it released in the block, and wait for its end."""
    command = ["strace", *_options(log, fault), f"--attach={pid}"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as tracer:
        assert tracer.stderr is not None
        said = tracer.stderr.readline()
        assert "attached" in said, said
        yield
        _wait_for_end(tracer.pid)


def _wait_for_end(pid: int) -> None:
    """Wait for a child at once; Popen.wait() with a time-out looks only now and then, which adds up in a walk."""
    descriptor = os.pidfd_open(pid)
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        assert poll.poll(_SECONDS * 1000), f"process {pid} did not end"
    finally:
        os.close(descriptor)


def _child_at_the_gate(pid: int) -> int:
    """Wait until a process has a child that has become the shell with the gate."""
    deadline = time.monotonic() + _SECONDS
    while time.monotonic() < deadline:
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            if _GATE in Path(f"/proc/{child}/cmdline").read_text():
                return int(child)
        time.sleep(0.01)
    raise AssertionError("the command was not started")


def _options(log: Path, fault: tuple[Call, Fault] | None) -> list[str]:
    options = ["--quiet=exit", f"--output={log}"]
    if fault is None:
        return [*options, "--string-limit=100"]
    call, kind = fault
    return [*options, f"--trace={call.name}", f"--inject={call.name}:{kind}:when={call.number}"]


def _become_traced(action: Callable[[], object], output: Path, reading: int, writing: int, ready: int) -> None:
    status = 1
    try:
        os.setsid()
        # Where Yama is active, only ancestors may trace without this; it fails where there is no Yama.
        ctypes.CDLL(None).prctl(_PR_SET_PTRACER, _ANYBODY, 0, 0, 0)
        os.close(writing)
        descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        os.write(ready, b".")
        os.read(reading, 1)
        action()
        status = 0
    except BaseException:  # whatever it is, the fork must not return into the test run
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(status)


def _kill_group(leader: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)
