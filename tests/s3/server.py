"""A real S3 server for tests: Versity's S3 gateway over a folder, built from its Go module."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from builder.flock import alone

VERSION = "v1.0.14"
_MODULE = f"github.com/versity/versitygw/cmd/versitygw@{VERSION}"
_LONGEST_BUILD = 540
_OLDEST_GO = (1, 23)
_PLACES = (shutil.which("go"), "/usr/local/go/bin/go", "/usr/lib/go/bin/go")

ACCESS_KEY, SECRET_KEY, BUCKET = "tests-access-key", "tests-secret-key", "tests"


class NoServerError(Exception):
    """The server cannot be built; the text says why, and what to do."""


@dataclass(frozen=True)
class Server:
    """A running server.

    Args:
        endpoint: URL.
        port: on 127.0.0.1.
    """

    port: int

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"


def server_program() -> Path:
    """Give the server's program; the first call builds it, in a minute or two.

    Raises:
        NoServerError: it cannot be built.
    """
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "darkpipe-tests"
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / f"versitygw-{VERSION}"
    with alone(folder / "versitygw.lock"):
        if not program.exists():
            with tempfile.TemporaryDirectory(dir="/var/tmp") as scratch:
                _build(Path(scratch), program)
    return program


def _build(scratch: Path, program: Path) -> None:
    go = next((path for path in _PLACES if _version(path) >= _OLDEST_GO), None)
    if not go:
        raise NoServerError("found no Go 1.23 or later; Debian 13 has it: apt install golang-go")
    # What go downloads and compiles is of no use afterwards.
    own = {"GOPATH": str(scratch / "go"), "GOCACHE": str(scratch / "cache"), "GOBIN": str(scratch / "bin")}
    environment = {**os.environ, **own, "GOFLAGS": "-modcacherw", "GOTOOLCHAIN": "local", "CGO_ENABLED": "0"}
    built = subprocess.run(
        [go, "install", _MODULE],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=_LONGEST_BUILD,
        cwd=scratch,
    )
    if built.returncode != 0:
        raise NoServerError(f"{go} does not build {_MODULE}; it needs Go 1.23 or later: {built.stderr[-1000:]}")
    partial = program.with_suffix(".new")
    shutil.copy2(scratch / "bin/versitygw", partial)
    partial.rename(program)


def _version(go: str | None) -> tuple[int, int]:
    """Give the version of a Go; 0.0 when there is none."""
    try:
        told = subprocess.run([str(go), "env", "GOVERSION"], capture_output=True, text=True, check=True).stdout
        major, minor = re.findall(r"\d+", told)[:2]
    except (OSError, subprocess.CalledProcessError, ValueError):
        return 0, 0
    return int(major), int(minor)


@contextmanager
def running_server(folder: Path) -> Iterator[Server]:
    """Run a server that keeps its one bucket in a folder, with all its data in files.

    Raises:
        NoServerError: it cannot be built, or does not begin.
    """
    program = server_program()
    (folder / "buckets" / BUCKET).mkdir(parents=True)
    (folder / "metadata").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    command: list[str | Path] = [
        program,
        "--port",
        f"127.0.0.1:{port}",
        "--quiet",
        "posix",
        "--sidecar",
        folder / "metadata",
    ]
    environment = {"ROOT_ACCESS_KEY": ACCESS_KEY, "ROOT_SECRET_KEY": SECRET_KEY, "PATH": os.environ["PATH"]}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([*command, folder / "buckets"], env=environment, stdout=log, stderr=log)
    try:
        _wait(process, port, folder / "log")
        yield Server(port)
    finally:
        process.terminate()
        process.wait(timeout=20)


def _wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    end = time.monotonic() + 20
    while process.poll() is None and time.monotonic() < end:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise NoServerError(f"the S3 server does not begin: {log.read_text(encoding='utf-8', errors='replace')[-1000:]}")
