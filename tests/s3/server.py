"""A real S3 server for tests: Versity's S3 gateway over a folder, built from its Go module."""

from __future__ import annotations

import os
import re
import shutil
import socket
import ssl
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from builder.archive import Archive
from builder.cache import Cache
from builder.errors import BuildError
from builder.flock import alone
from builder.progress import Stages
from builder.run import run
from builder.sandbox import remove_tree
from builder.tools import ToolsTree, open_tools

VERSION = "v1.0.14"
_MODULE = f"github.com/versity/versitygw/cmd/versitygw@{VERSION}"
_OLDEST_GO = (1, 23)
_GO = ToolsTree("Go for the tests' S3 server", ("golang-go",))
_TRUSTED = "/etc/ssl/certs/ca-certificates.crt"
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
    # What go downloads and compiles is of no use afterwards.
    go = next((path for path in _PLACES if _version(path) >= _OLDEST_GO), None)
    folders = {name: str(scratch / name) for name in ("GOPATH", "GOCACHE", "GOBIN")}
    settings = {"GOFLAGS": "-modcacherw", "GOTOOLCHAIN": "local", "CGO_ENABLED": "0"}
    try:
        if go:
            run([go, "install", _MODULE], environment={**folders, **settings})
            built = scratch / "GOBIN/versitygw"
        else:
            built = _build_in_tree(scratch, settings)
    except BuildError as error:
        raise NoServerError(f"{_MODULE} is not built: {error}") from error
    partial = program.with_suffix(".new")
    shutil.copy2(built, partial)
    partial.rename(program)


def _build_in_tree(scratch: Path, settings: Mapping[str, str]) -> Path:
    """Build it by Debian 13's Go, since this computer has none that is new enough; gives the program.

    Raises:
        BuildError: the tree or the program cannot be made.
    """
    cache = Cache(scratch / "cache", remove_tree)
    tree = open_tools(_GO, cache, Archive.from_environment(), Stages())
    (work := cache.root / "go").mkdir()
    trusted = Path(os.environ.get("SSL_CERT_FILE") or ssl.get_default_verify_paths().cafile or _TRUSTED)
    shutil.copy2(trusted, work / "trusted.pem")
    folders = {name: f"{tree.inside(work)}/{name}" for name in ("GOPATH", "GOCACHE", "GOBIN", "GOTMPDIR")}
    (work / "GOTMPDIR").mkdir()
    own = {**folders, **settings, "SSL_CERT_FILE": tree.inside(work / "trusted.pem")}
    tree.run(["go", "install", _MODULE], environment=own)
    return work / "GOBIN/versitygw"


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
