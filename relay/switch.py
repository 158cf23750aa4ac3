"""Another bundle is tried: switched in, asked whether it is well, and else the one before comes back.

The program that does it is always the one before's, since the new one may not even start. What is to be undone is on
the disk before it is done: the link `previous`, then `trial.json` (`announce`), then the link `current`. Whoever finds
`trial.json` and no trial going on goes back: after a power cut (`resume`), or after this program was killed (`back`).

    run relay.switch try       try the bundle that `trial.json` names
    run relay.switch back      undo a trial that has not come to an end
    run relay.switch resume    the same at a start of the machine, before its services
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from model.bundle import MANIFEST, BundleState, BundleStatus, Manifest
from model.control import ControlError
from relay import files
from relay.machine import RECORD, Failure, System
from relay.parcel import CURRENT, point

PREVIOUS = "previous"
TRIAL = Path("var/lib/darkpipe/trial.json")


def main(arguments: Sequence[str]) -> int:
    """Do one of the three."""
    system = System()
    try:
        match list(arguments):
            case ["try"]:
                try_bundle(system)
            case ["back"]:
                go_back(system, "its installation was ended in the middle")
            case ["resume"]:
                go_back(system, "the relay was switched off while it was tried", starting=True)
            case _:
                print(__doc__, file=sys.stderr)
                return 2
    except (Failure, OSError, ValueError, KeyError) as error:
        print(f"darkpipe-switch: {error}", file=sys.stderr, flush=True)
        return 1
    return 0


def status(system: System) -> BundleStatus:
    """Tell how it stands with the relay's software."""
    try:
        known = BundleStatus.read((system.root / RECORD).read_bytes())
    except FileNotFoundError:
        known = BundleStatus("", "", BundleState.EMPTY)
    if not (system.root / TRIAL).exists():
        return known
    return BundleStatus(known.bundle, known.version, BundleState.TRYING, _trial(system)[0])


def announce(system: System, identifier: str) -> None:
    """Put on the disk that a bundle is going to be tried, and which one comes back when it is not well."""
    before = status(system).bundle
    point(system.base, PREVIOUS, before)
    files.replace(system.root / TRIAL, json.dumps({"bundle": identifier, "before": before}).encode())


def withdraw(system: System) -> None:
    """Take that back."""
    (system.root / TRIAL).unlink()
    files.sync_folder((system.root / TRIAL).parent)


def try_bundle(system: System) -> None:
    """Switch the announced bundle in, which lies unpacked beside the current one; go back when it is not well.

    Raises:
        Failure: the bundle before is not as it was, either.
        OSError: the disk has failed.
    """
    identifier, before = _trial(system)
    point(system.base, CURRENT, identifier)
    try:
        _in(system, identifier, "apply")
        _in(system, identifier, "health")
        version = read_manifest(system, identifier).version
    except (Failure, OSError) as error:
        go_back(system, str(error))
        return
    _record(system, BundleStatus(identifier, version, BundleState.INSTALLED))
    withdraw(system)
    _prune(system, {identifier, before})
    print(f"darkpipe-switch: {identifier[:12]} is installed", flush=True)


def go_back(system: System, problem: str, *, starting: bool = False) -> None:
    """Undo a trial; nothing when there is none.

    Args:
        problem: why.
        starting: whether the services have yet to start; they will find the files of the bundle before.

    Raises:
        Failure: the bundle before could not put everything back.
    """
    if not (system.root / TRIAL).exists():
        return
    identifier, before = _trial(system)
    point(system.base, CURRENT, before)
    _in(system, before, "files" if starting else "apply")
    if starting:
        system.try_run("systemctl", "daemon-reload")
    version = read_manifest(system, before).version
    _record(system, BundleStatus(before, version, BundleState.REFUSED, identifier, problem))
    withdraw(system)
    _prune(system, {before})
    print(f"darkpipe-switch: {identifier[:12]} is refused: {problem}", file=sys.stderr, flush=True)


def read_manifest(system: System, identifier: str) -> Manifest:
    """Read the manifest of an unpacked bundle.

    Raises:
        Failure: it is damaged, or there is none.
    """
    try:
        return Manifest.read((system.base / identifier / MANIFEST).read_bytes())
    except (OSError, ControlError) as error:
        raise Failure(f"the bundle's {MANIFEST} cannot be read: {error}") from None


def _in(system: System, identifier: str, step: str) -> None:
    """Let a bundle's own installer do a step."""
    system.run(str(system.base / identifier / "run"), "relay.install", step)


def _trial(system: System) -> tuple[str, str]:
    found = json.loads((system.root / TRIAL).read_text(encoding="utf-8"))
    return str(found["bundle"]), str(found["before"])


def _record(system: System, known: BundleStatus) -> None:
    files.replace(system.root / RECORD, known.to_json(), 0o644)


def _prune(system: System, kept: set[str]) -> None:
    for path in system.base.iterdir():
        if path.is_dir() and not path.is_symlink() and path.name not in kept:
            shutil.rmtree(path, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
