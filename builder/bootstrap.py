"""The bootstrap of a site's relay, kept on the owner's computer beside the site's file."""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import ValidationError

from bootstrap.ends import Bootstrap, make_bootstrap
from builder.errors import BuildError
from model.site import Relay
from stack.durable import write_atomically

_SUFFIX = ".keys"
_FORMER = ".former"


def keys_folder(site: Path) -> Path:
    """Name the folder with the keys of a site; it lies beside its file."""
    return site.with_name(f"{site.stem}{_SUFFIX}")


def has_bootstrap(site: Path, relay: Relay) -> bool:
    """Tell whether the bootstrap of a relay was made before."""
    # Unlike Path.exists(), it does not end for a folder that is closed; open_bootstrap() says what to do about one.
    return os.path.exists(bootstrap_file(site, relay))  # noqa: PTH110


def bootstrap_file(site: Path, relay: Relay) -> Path:
    """Name the file with both halves of a relay's bootstrap. A secret."""
    return keys_folder(site) / f"{relay.address}.json"


def open_bootstrap(site: Path, relay: Relay, *, renew: bool = False) -> Bootstrap:
    """Give the bootstrap of a relay: the one that was made before, or a new one.

    Args:
        site: the file of the site; the keys are kept in a folder beside it that only its owner may enter.
        renew: make a new one in any case. The one before is kept beside it, with an ending of its own, until the next
            time: a device may go by it until it has been given the new one.

    Raises:
        BuildError: the folder is open to others, the file in it is damaged or of the other transport, or a new one
            cannot be written.
    """
    folder = keys_folder(site)
    path = bootstrap_file(site, relay)
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        if (mode := stat.S_IMODE(folder.stat().st_mode)) & 0o077:
            raise BuildError(
                f"{folder}: found permissions {mode:04o}, expected 0700; the keys in it are for nobody else",
                f"chmod 0700 {folder}; if somebody may have read them, delete it and set up the relay anew",
            )
        with _locked(folder):
            if path.exists() and not renew:
                return _of_transport(Bootstrap.model_validate_json(path.read_bytes()), relay, path)
            made = make_bootstrap(relay)
            # Whoever keeps the site's file in a repository wants it there without its keys.
            write_atomically(folder / ".gitignore", b"*\n", 0o600)
            if path.exists():
                write_atomically(path.with_name(path.name + _FORMER), path.read_bytes(), 0o600)
            write_atomically(path, made.model_dump_json(indent=2).encode() + b"\n", 0o600)
    except ValidationError as error:
        found = error.errors()[0]
        where = f"{'.'.join(map(str, found['loc']))}: " if found["loc"] else ""
        raise BuildError(
            f"{path}: {where}{found['msg']}",
            "take the file from a backup; without it, delete it and set up the relay anew",
        ) from None
    except OSError as error:
        raise BuildError(
            f"{error.filename or path}: {error.strerror}", "the keys lie beside the site's file"
        ) from error
    return made


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep others out of a folder: two first calls at once would give keys of two tunnels, and keep those of one."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _of_transport(found: Bootstrap, relay: Relay, path: Path) -> Bootstrap:
    if found.transport is not relay.transport:
        raise BuildError(
            f"{path}: found the keys of a relay with `transport: {found.transport}`, expected "
            f"`transport: {relay.transport}` as in the site's file",
            f"write `transport: {found.transport}` again, or delete it and set up relay and device anew",
        )
    return found
