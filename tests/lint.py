"""Everything that can be said about the code without running it."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tests.locks import check_locks
from tests.tiers import clock

REPOSITORY = Path(__file__).resolve().parent.parent
_PACKAGES = ("model", "stack", "bootstrap", "builder", "web", "firstboot", "home", "relay", "tests", "benchmarks")
_SHELLS = (b"#!/bin/sh", b"#!/bin/bash", b"#!/usr/bin/env bash", b"# shellcheck shell=")


def lint() -> bool:
    """Run all checks, also after one has failed, and print what they find; True when they find nothing."""
    checks: dict[str, Callable[[], bool]] = {
        "ruff check": partial(_python, "ruff", "check"),
        "ruff format": partial(_python, "ruff", "format", "--check"),
        "mypy": partial(_python, "mypy", *_packages()),
        "shellcheck": _shellcheck,
        "lock files": check_locks,
    }
    failed = []
    for name, check in checks.items():
        print(f"=== {name} ===", flush=True)
        started = time.monotonic()
        good = check()
        print(f"{'good' if good else 'BAD'}, {clock(time.monotonic() - started)}", flush=True)
        if not good:
            failed.append(name)
    print(f"lint: {', '.join(failed)} failed" if failed else "lint: all good")
    return not failed


def reformat() -> bool:
    """Sort imports and lay the Python code out anew; True when that was possible."""
    return _python("ruff", "check", "--select", "I", "--fix") and _python("ruff", "format")


def shell_scripts() -> list[str]:
    """The project's shell scripts, told by their first line; also those that are not committed yet."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True, check=True).stdout.split("\0")
    return sorted(name for name in names if name and _is_shell(REPOSITORY / name))


def _packages() -> list[str]:
    return [name for name in _PACKAGES if any((REPOSITORY / name).rglob("*.py"))]


def _is_shell(path: Path) -> bool:
    if path.is_symlink() or not path.is_file():
        return False
    with path.open("rb") as file:
        return file.readline().startswith(_SHELLS)


def _shellcheck() -> bool:
    # SC1091: what initramfs scripts source exists in an initramfs only.
    return _run("shellcheck", "--external-sources", "--exclude=SC1091", *shell_scripts())


def _python(*arguments: str) -> bool:
    return _run(sys.executable, "-m", *arguments)


def _run(*command: str) -> bool:
    return subprocess.run(command, cwd=REPOSITORY, check=False).returncode == 0
