"""`unlock: relay` made and ended on a running device: keys for the relay first, then the disk's slot."""

from __future__ import annotations

import secrets
import socket
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from firstboot.luks import Luks, Slot, Use
from firstboot.relay_key import KEY_BYTES, VOLUME, WaitingKeyError, forget_waiting, read_waiting, waits
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
from stack.durable import discard_partials, sync_folder

_PATIENCE = 600.0
"""Seconds for which the relay may install Tang."""

_LOOK_AGAIN = 5.0
"""Seconds between two looks at whether home has paired."""


class OtherTunnelError(BootStageError):
    """The tunnel to the relay is none by which it could help; the text says so."""


@dataclass(frozen=True)
class Places:
    """Where all of it lies.

    Args:
        pairing: folder with home's keys, on the encrypted disk.
        stage: file on `state`.
        waiting: folder where a new disk's key waits, on the encrypted disk.
    """

    pairing: Path = FOLDER
    stage: Path = boot_stage.FILE
    waiting: Path = Path("/data") / VOLUME

    @classmethod
    def below(cls, data: Path, state: Path) -> Places:
        """Give those of a device, by where `data` and `state` are mounted."""
        return cls(data / FOLDER.name, state / boot_stage.FILE.parent.name / boot_stage.FILE.name, data / VOLUME)


_PLACES = Places()


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
        raise OtherTunnelError(
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


def add_relay(luks: Luks, disk: UUID, known: bytes, tell: Callable[[str], object], places: Places = _PLACES) -> Slot:
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
    keys = _give_keys(disk, tell, places)
    before = boot_stage.read(places.stage)
    document = paired(places.pairing)
    stage = stage_of(keys, document, look_up(document.bootstrap.relay, document.bootstrap.port))
    with boot_stage.tunnel(stage, stage.addresses, lambda: False):
        if before and before.disk == disk and before.key:
            with suppress(BootStageError):
                if cut := luks.name_unnamed(boot_stage.decrypt(before.key), Use.RELAY):
                    return cut
        key = secrets.token_bytes(KEY_BYTES)
        stage = _encrypt(key, stage, keys)
    boot_stage.write(stage, places.stage)
    return luks.add(known, key, Use.RELAY, None)


def finish(tell: Callable[[str], object], places: Places = _PLACES) -> bool:
    """End what was begun when the disk was made, as soon as home has paired: its key goes from the disk to `state`.

    Returns:
        Whether a key has waited for it.

    Raises:
        BootStageError, LinkError, WaitingKeyError: the relay does not do its part, or a file is damaged; the key waits.
        OSError: the disk has failed.
    """
    waiting = read_waiting(places.waiting)
    if waiting is None:
        return False
    paired(places.pairing)
    keys = _give_keys(waiting.disk, tell, places)
    document = paired(places.pairing)
    stage = stage_of(keys, document, look_up(document.bootstrap.relay, document.bootstrap.port))
    with boot_stage.tunnel(stage, stage.addresses, lambda: False):
        stage = _encrypt(waiting.octets, stage, keys)
    if read_waiting(places.waiting) != waiting:
        # Somebody has given a command meanwhile, which has ended it or done it.
        if not helps(waiting.disk, places):
            forget_relay(places)
        return False
    boot_stage.write(stage, places.stage)
    forget_waiting(places.waiting)
    return True


def helps(disk: UUID, places: Places = _PLACES) -> bool:
    """Tell whether `state` has what it takes to unlock a disk with the relay's help.

    Raises:
        BootStageError: the file is damaged.
    """
    stage = boot_stage.read(places.stage)
    return stage is not None and stage.disk == disk and bool(stage.key)


def forget_relay(places: Places = _PLACES) -> None:
    """Remove what the relay and the device have for it; before the slot is destroyed, so that a cut leaves no help.

    Raises:
        OSError: the disk has failed.
    """
    if places.stage.parent.exists():
        discard_partials(places.stage.parent)
    for path in (places.stage, places.pairing / unlock_keys.FILE):
        if path.exists():
            path.unlink()
            sync_folder(path.parent)
    forget_waiting(places.waiting)


def is_left(places: Places = _PLACES) -> bool:
    """Tell whether there is anything that `forget_relay` would remove, of a change that was cut off for instance."""
    return places.stage.exists() or (places.pairing / unlock_keys.FILE).exists() or waits(places.waiting)


def follow(places: Places = _PLACES) -> None:
    """Let what lies on `state` follow a change of the relay's keys, and of its addresses.

    Raises:
        BootStageError: a file is damaged, or home is not paired.
        OSError: the disk has failed.
    """
    keys, before = unlock_keys.read(places.pairing), boot_stage.read(places.stage)
    if keys is None or before is None or keys.disk != before.disk:
        return
    document = paired(places.pairing)
    addresses = look_up(document.bootstrap.relay, document.bootstrap.port) or before.addresses
    wanted = stage_of(keys, document, addresses, before.key)
    # Looking names up takes its time, and somebody may have ended the relay's help meanwhile.
    if wanted != before and boot_stage.read(places.stage) == before:
        boot_stage.write(wanted, places.stage)


def _give_keys(disk: UUID, tell: Callable[[str], object], places: Places) -> UnlockKeysFile:
    """Make the keys for a disk if they are missing, and wait until darkpipe-pair.service has brought them there."""
    paired(places.pairing)
    keys = unlock_keys.read(places.pairing)
    if keys is None or keys.disk != disk:
        keys = unlock_keys.make(disk)
        unlock_keys.write(keys, places.pairing)
    tell("The relay gets its keys, and installs what it needs …")
    _wait_for_relay(keys)
    return keys


def _encrypt(key: bytes, stage: BootStage, keys: UnlockKeysFile) -> BootStage:
    """Encrypt the disk's key in the boot stage's tunnel, and see that it can be had again."""
    encrypted = boot_stage.encrypt(key, stage.url, keys.thumbprint)
    if boot_stage.decrypt(encrypted) != key:
        raise BootStageError("the relay does not give back what was encrypted with its help")
    return stage.model_copy(update={"key": encrypted})


def _wait_for_relay(keys: UnlockKeysFile) -> None:
    wanted, end = keys.for_relay().digest, time.monotonic() + _PATIENCE
    while time.monotonic() < end:
        told = read_told()
        if told and told.unlock == wanted:
            return
        time.sleep(1.0)
    trouble = f": {told.trouble}" if told and told.trouble else ""
    raise BootStageError(f"the relay has not taken its keys after {_PATIENCE / 60:.0f} minutes{trouble}")


def is_paired(folder: Path = FOLDER) -> bool:
    """Tell whether there is a relay that could help; of a damaged file darkpipe-pair.service tells."""
    try:
        document = pairing_file.read(folder / STATE_FILE)
    except PairingError:
        return False
    return document is not None and document.kept.base is not None


def keep_up(tell: Callable[[str], object] = print, places: Places = _PLACES, pause: float = _LOOK_AGAIN) -> None:
    """Do all that is to be done until nothing changes any more; a key that waits is waited with until home has paired.

    systemd overlooks a change of the file that comes while this runs (systemd.path(5): PathChanged=).

    Args:
        pause: seconds between two looks.

    Raises:
        BootStageError, LinkError, WaitingKeyError: as `finish` and `follow`.
        OSError: the disk has failed.
    """
    while waits(places.waiting) and not is_paired(places.pairing):
        time.sleep(pause)
    seen: object = None
    while is_paired(places.pairing) and seen != (now := _mark(places.pairing / STATE_FILE)):
        seen = now
        try:
            if finish(tell, places):
                tell("the relay helps to unlock the disk from now on")
            follow(places)
        except OtherTunnelError as error:
            # Trying again would not help; another relay, or another policy, does.
            tell(str(error))


def _mark(path: Path) -> object:
    """Give what is another one once the file was replaced."""
    found = path.stat()
    return (found.st_ino, found.st_mtime_ns)


def main() -> int:
    """Run by darkpipe-boot-stage.service; exit status 1 after a text."""
    try:
        keep_up()
    except (BootStageError, LinkError, WaitingKeyError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
