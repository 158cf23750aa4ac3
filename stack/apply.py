"""Putting a rendered configuration in place: whole or not at all, and only after the daemons have approved of it.

A store holds one folder per generation, named after its content, and `current`, a symbolic link to one of them:

    config/4f0c…/postfix/main.cf
    config/current -> 4f0c…

A generation is written under another name, checked, renamed, and `current` is switched by one rename(2), each step
durable before the next. A power cut therefore leaves the old configuration or the new one, and rubbish that the next
call clears away.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import stat
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from stack.durable import sync_folder, write_synced
from stack.owners import Owners
from stack.render import File
from stack.stack import Stack

CURRENT = "current"
"""Name of the link to the generation in force; services read their configuration through it."""

_UNFINISHED = ".new-"
_DOOMED = ".old-"


@dataclass(frozen=True)
class Applied:
    """What an apply has done.

    Args:
        generation: name of the generation that is in force now.
        changed: names of the services that must be restarted to see it.
        switched: whether another one was in force before.
    """

    generation: str
    changed: tuple[str, ...]
    switched: bool = True


class CheckError(Exception):
    """A daemon refuses its new configuration; the old one is still in force."""

    def __init__(self, command: Sequence[str], status: int, output: str) -> None:
        shown = output.strip() or "(it printed nothing)"
        super().__init__(
            f"the new configuration was refused and is not in force.\n\n{shown}\n\n"
            f"Exit status {status} of the check:\n\n  {shlex.join(command)}"
        )


@dataclass(frozen=True)
class Found:
    """A file of a generation as it lies on the disk."""

    content: bytes
    mode: int


Run = Callable[[Sequence[str]], tuple[int, str]]
"""Runs a command and gives its exit status and what it printed."""


def run_check(command: Sequence[str]) -> tuple[int, str]:
    """Run a daemon's check of its configuration."""
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
        )
    except OSError as error:
        return 127, str(error)
    return done.returncode, done.stdout.decode(errors="replace")


def apply(
    stack: Stack,
    files: Mapping[PurePosixPath, File],
    store: Path,
    owners: Owners,
    run: Run = run_check,
    commit: Callable[[Sequence[str]], None] = lambda _: None,
) -> Applied:
    """Bring a rendered configuration into force.

    Args:
        store: folder of the generations; it is made when it is not there.
        run: runs the checks.
        commit: makes durable what the configuration was rendered from, and the names of the services that must be
            restarted for it; called when the checks have approved of it and before it is switched to, so that a cut
            between the two is mended by the next apply.

    Raises:
        CheckError: a check failed; nothing was changed. The refused tree stays until the next call, so that the
            command in the error can be run again.
    """
    store.mkdir(exist_ok=True)
    store.chmod(0o755)  # whatever the umask: services read their configuration below it
    generation = identify(files)
    previous = current(store)
    _discard(store, keep=_generations(store))
    if generation == previous and (store / generation).is_dir():
        commit(())
        return Applied(generation, (), switched=False)
    if not (store / generation).is_dir():
        _write_checked(stack, files, store, generation, owners, run)
    changed = differing(find_files(store / previous) if previous else {}, files)
    names = tuple(service.name for service in stack.services_to_restart(changed))
    commit(names)
    _switch(store, generation)
    _discard(store, keep={generation, *([previous] if previous else [])})
    return Applied(generation, names)


def identify(files: Mapping[PurePosixPath, File]) -> str:
    """Name a generation by what is in it, owners and modes included."""
    digest = hashlib.sha256()
    for path, file in sorted(files.items()):
        digest.update(f"{path}\0{file.mode:o}\0{file.group}\0{len(file.content)}\0".encode())
        digest.update(file.content)
    return digest.hexdigest()[:16]


def current(store: Path) -> str | None:
    """Name the generation in force; None before the first."""
    try:
        return str((store / CURRENT).readlink())
    except FileNotFoundError:
        return None


def _write_checked(
    stack: Stack, files: Mapping[PurePosixPath, File], store: Path, generation: str, owners: Owners, run: Run
) -> None:
    tree = store / f"{_UNFINISHED}{generation}"
    write_tree(tree, files, owners)
    _set_times(tree, store)
    check(stack, tree, run)
    tree.rename(store / generation)
    sync_folder(store)


def write_tree(tree: Path, files: Mapping[PurePosixPath, File], owners: Owners) -> None:
    """Write a rendered configuration; on return all of it but its own name is on the disk."""
    folders = {parent for path in files for parent in path.parents}
    for folder in sorted(folders):
        (tree / folder).mkdir(exist_ok=True)
        (tree / folder).chmod(0o755)
    for path, file in files.items():
        write_synced(tree / path, file.content, file.mode, owners.ids("root", file.group))
    for folder in folders:
        sync_folder(tree / folder)


def check(stack: Stack, tree: Path, run: Run) -> None:
    """Let the daemons judge a tree.

    Raises:
        CheckError: one of them refuses it.
    """
    for command in stack.checks(tree):
        status, output = run(command)
        if status != 0:
            raise CheckError(command, status, output)


def _set_times(tree: Path, store: Path) -> None:
    """Give each file a time that the same file has in no other generation.

    Daemons that read a file again once it has changed compare size and time, the time in seconds (Dovecot's
    passwd-file): two changes within one second, or a clock that was set back, would pass unseen.
    """
    now = int(time.time())
    for path in (path for path in tree.rglob("*") if path.is_file()):
        others = [store / name / path.relative_to(tree) for name in _generations(store)]
        newest = max((int(other.stat().st_mtime) for other in others if other.is_file()), default=0)
        os.utime(path, times=(now, max(now, newest + 1)))


def _switch(store: Path, generation: str) -> None:
    link = store / f"{_UNFINISHED}{CURRENT}"
    link.symlink_to(generation)
    link.rename(store / CURRENT)
    sync_folder(store)


def find_files(generation: Path) -> Mapping[PurePosixPath, Found]:
    """Read the files of a generation by their paths in it; there are none when it has gone."""
    return {
        PurePosixPath(path.relative_to(generation)): Found(path.read_bytes(), stat.S_IMODE(path.stat().st_mode))
        for path in generation.rglob("*")
        if path.is_file()
    }


def differing(before: Mapping[PurePosixPath, Found], files: Mapping[PurePosixPath, File]) -> set[PurePosixPath]:
    """Find the files whose content changes, that come, or that go."""
    return {
        path
        for path in before.keys() | files.keys()
        if path not in before or path not in files or before[path].content != files[path].content
    }


def _generations(store: Path) -> set[str]:
    return {path.name for path in store.iterdir() if path.is_dir() and not path.name.startswith((_UNFINISHED, _DOOMED))}


def _discard(store: Path, keep: set[str]) -> None:
    for path in store.iterdir():
        if path.name == CURRENT or path.name in keep:
            continue
        if path.is_symlink():
            path.unlink()
        elif path.name.startswith((_UNFINISHED, _DOOMED)):
            shutil.rmtree(path)
        else:
            # A cut must not leave half of it under its name: who comes to this content again would take that for all.
            doomed = path.rename(store / f"{_DOOMED}{path.name}")
            sync_folder(store)
            shutil.rmtree(doomed)
