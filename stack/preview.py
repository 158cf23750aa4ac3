"""What an apply would change: the same rendering and the same checks, and nothing but a text comes of it."""

from __future__ import annotations

import difflib
import fcntl
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from stack.apply import Found, Run, check, current, differing, find_files, run_check, write_tree
from stack.owners import Owners
from stack.render import File
from stack.stack import Stack


@dataclass(frozen=True)
class Preview:
    """What an apply would do.

    Args:
        differences: a text for each file that would change, in the order of their paths.
        changed: names of the services that would be restarted.
    """

    differences: tuple[str, ...]
    changed: tuple[str, ...]


def preview(
    stack: Stack, files: Mapping[PurePosixPath, File], store: Path, scratch: Path, owners: Owners, run: Run = run_check
) -> Preview:
    """Compare a rendered configuration with the one in force, after the daemons have approved of it.

    It waits for no apply, and no apply waits for it: the store is read only.

    Args:
        store: folder of the generations; it need not be there.
        scratch: a folder for the tree that the daemons judge; it is there only as long as that takes. What a killed
            call leaves of it goes with the next call, or by `discard_leftover`.
        run: runs the checks.

    Raises:
        CheckError: a check failed.
    """
    with _emptied(scratch):
        write_tree(scratch, files, owners)
        check(stack, scratch, run)
    before = _in_force(store)
    secrets = {secret.path for secret in stack.secrets}
    changed = differing(before, files)
    paths = sorted(
        changed | {path for path, found in before.items() if path in files and found.mode != files[path].mode}
    )
    differences = tuple(_describe(path, before.get(path), files.get(path), path in secrets) for path in paths)
    return Preview(differences, tuple(service.name for service in stack.services_to_restart(changed)))


def discard_leftover(scratch: Path) -> None:
    """Remove the tree of a preview that was killed, if possible; that of one that is just being made stays."""
    if not scratch.exists():
        return
    # At the start of the device an apply may write nothing in /run, but finds nothing there either.
    with suppress(OSError), _lock_of(scratch).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(scratch)


@contextmanager
def _emptied(scratch: Path) -> Iterator[None]:
    """Have the folder absent at the begin of the block, and after it; a second caller waits."""
    with _lock_of(scratch).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        shutil.rmtree(scratch, ignore_errors=True)
        try:
            yield
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def _lock_of(scratch: Path) -> Path:
    return scratch.with_name(f"{scratch.name}.lock")


def _in_force(store: Path) -> Mapping[PurePosixPath, Found]:
    """Read the generation in force, also while applies switch to others."""
    while True:
        generation = current(store)
        if generation is None:
            return {}
        try:
            return find_files(store / generation)
        except FileNotFoundError:
            if current(store) == generation:
                raise


def _describe(path: PurePosixPath, old: Found | None, new: File | None, secret: bool) -> str:
    lines = []
    if old and new and old.mode != new.mode:
        lines.append(f"{path}: mode {old.mode:04o} becomes {new.mode:04o}\n")
    before, after = old.content if old else b"", new.content if new else b""
    # A file that is no secret of this Stack may have been one of the Stack before it.
    hidden = secret or bool(old and not old.mode & 0o004) or bool(new and not new.mode & 0o004)
    if hidden and before != after:
        verb = "changes" if old and new else "goes away" if old else "is new"
        lines.append(f"{path}: {verb} (a secret: its content is not shown)\n")
    elif before != after or not (old and new):
        names = (f"in force/{path}" if old else "/dev/null", f"new/{path}" if new else "/dev/null")
        lines += _unified(before.decode(errors="replace"), after.decode(errors="replace"), *names)
    return "".join(lines)


def _unified(before: str, after: str, old_name: str, new_name: str) -> Iterator[str]:
    header = [f"--- {old_name}\n", f"+++ {new_name}\n"]
    body = list(difflib.unified_diff(before.splitlines(True), after.splitlines(True)))[2:]
    for line in [*header, *body]:
        yield line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n"
