"""`unlock: relay` made and ended on a running device: keys for the relay first, then the disk's slot."""

from __future__ import annotations

import secrets
import socket
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from uuid import UUID

from firstboot.luks import Luks, Slot, Use
from home import boot_stage, pairing_file, unlock_keys
from home.boot_stage import BootStage, BootStageError
from home.pair_keeper import STATE_FILE, home_end
from home.pair_state import read_told
from home.pairing_file import Document, PairingError
from home.relay_peer import FOLDER
from home.tunnel import in_turn
from home.tunnel_link import LinkError
from home.unlock_keys import UnlockKeysFile
from model.tunnel import HomeEnd

_KEY_BYTES = 32

_PATIENCE = 600.0
"""Seconds for which the relay may install Tang."""


def paired(folder: Path = FOLDER) -> Document:
    """Give how far pairing is.

    Raises:
        BootStageError: home is not paired, or its tunnel is not WireGuard's.
    """
    try:
        document = pairing_file.read(folder / STATE_FILE)
    except PairingError as error:
        raise BootStageError(str(error)) from None
    if document is None or document.kept.base is None:
        raise BootStageError(
            "home has not paired with a relay yet, which would help to unlock the disk: `darkpipe pair`"
        )
    if not isinstance(document.bootstrap, HomeEnd):
        raise BootStageError(
            "the tunnel to the relay is OpenVPN's (transport: mtls); the relay unlocks by WireGuard's only"
        )
    return document


def stage_of(keys: UnlockKeysFile, document: Document, addresses: Sequence[str], key: str = "") -> BootStage:
    """Give what is to lie on `state`: with the relay's key that holds, and while keys change with the next one."""
    kept = document.kept
    known = [home_end(document.bootstrap, one) for one in (kept.base, kept.following)]
    ends = [end for end in known if isinstance(end, HomeEnd)]
    relay_keys = tuple(dict.fromkeys(end.relay_key for end in ends))
    return keys.for_state(ends[0], relay_keys, tuple(addresses), key)


def look_up(relay: str, port: int) -> Sequence[str]:
    """Give the relay's addresses: before the disk is unlocked, nobody on the device looks names up."""
    with suppress(OSError):
        found = socket.getaddrinfo(relay, port, type=socket.SOCK_DGRAM)
        return in_turn(str(row[4][0]) for row in found)
    return ()


def add_relay(
    luks: Luks,
    disk: UUID,
    known: bytes,
    tell: Callable[[str], object],
    folder: Path = FOLDER,
    file: Path = boot_stage.FILE,
) -> Slot:
    """Let the relay help to unlock the disk.

    The relay has its keys, and `state` the disk's key encrypted, before the disk knows it. A cut in between leaves what
    opens nothing; doing it again goes on.

    Args:
        disk: the container's identifier.
        known: a key that opens it.

    Raises:
        BootStageError, LinkError: the relay does not do its part; the disk was not changed.
        LuksError: the key cannot be added.
    """
    document = paired(folder)
    keys = unlock_keys.read(folder)
    if keys is None or keys.disk != disk:
        keys = unlock_keys.make(disk)
        unlock_keys.write(keys, folder)
    tell("The relay gets its keys, and installs what it needs …")
    _wait_for_relay(keys)
    bootstrap = document.bootstrap
    addresses = look_up(bootstrap.relay, bootstrap.port)
    before = boot_stage.read(file)
    stage = stage_of(keys, document, addresses)
    with boot_stage.tunnel(stage, addresses, lambda: False):
        if before and before.disk == disk and before.key:
            with suppress(BootStageError):
                if cut := luks.name_unnamed(boot_stage.decrypt(before.key), Use.RELAY):
                    return cut
        key = secrets.token_bytes(_KEY_BYTES)
        encrypted = boot_stage.encrypt(key, stage.url, keys.thumbprint)
        if boot_stage.decrypt(encrypted) != key:
            raise BootStageError("the relay does not give back what was encrypted with its help")
    boot_stage.write(stage.model_copy(update={"key": encrypted}), file)
    return luks.add(known, key, Use.RELAY, None)


def forget_relay(folder: Path = FOLDER, file: Path = boot_stage.FILE) -> None:
    """Remove what the relay and the device had for it; the disk has no slot for it any more."""
    (folder / unlock_keys.FILE).unlink(missing_ok=True)
    file.unlink(missing_ok=True)


def follow(folder: Path = FOLDER, file: Path = boot_stage.FILE) -> None:
    """Let what lies on `state` follow a change of the relay's keys, and of its addresses.

    Raises:
        BootStageError: a file is damaged, or home is not paired.
        OSError: the disk has failed.
    """
    keys, before = unlock_keys.read(folder), boot_stage.read(file)
    if keys is None or before is None or keys.disk != before.disk:
        return
    document = paired(folder)
    addresses = look_up(document.bootstrap.relay, document.bootstrap.port) or before.addresses
    wanted = stage_of(keys, document, addresses, before.key)
    if wanted != before:
        boot_stage.write(wanted, file)


def _wait_for_relay(keys: UnlockKeysFile) -> None:
    wanted, end = keys.for_relay().digest, time.monotonic() + _PATIENCE
    while time.monotonic() < end:
        told = read_told()
        if told and told.unlock == wanted:
            return
        time.sleep(1.0)
    trouble = f": {told.trouble}" if told and told.trouble else ""
    raise BootStageError(f"the relay has not taken its keys after {_PATIENCE / 60:.0f} minutes{trouble}")


def main() -> int:
    """Run by darkpipe-boot-stage.service; exit status 1 after a text."""
    try:
        follow()
    except (BootStageError, LinkError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
