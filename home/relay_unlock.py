"""darkpipe-relay-unlock: asks the relay for its help while the disk is locked, and hands the key to who unlocks it.

It has the network and not the disk; darkpipe-disk.service has the disk and not the network. Page and console are there
all the while, and it does not give up.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from firstboot.luks import MAPPED
from firstboot.unlock_socket import UnlockClient
from firstboot.unlocking import Refused, Stage
from firstboot.vault import relay_words
from home.boot_stage import BootStage, BootStageError, decrypt, read, tunnel
from home.tunnel_link import LinkError

_AGAIN = 5.0
"""Seconds until the relay is tried again."""


def is_locked(client: UnlockClient) -> bool | None:
    """Tell whether the disk waits for a key; None when nobody can tell: it is unlocked, or not looked for yet."""
    try:
        return client.see().view.stage is Stage.LOCKED
    except Refused:
        return None


def unlock(stage: BootStage, client: UnlockClient, tell: Callable[[str], object] = print) -> bool:
    """Try once.

    Returns:
        Whether the disk is unlocked.
    """
    try:
        with tunnel(stage, stage.addresses, lambda: is_locked(client) is not True):
            key = decrypt(stage.key)
        client.unlock(relay_words(key))
    except (BootStageError, LinkError, Refused) as error:
        tell(f"the disk was not unlocked with the relay's help: {error}")
        return False
    tell("the disk for the mail was unlocked with the relay's help")
    return True


def main() -> int:
    """Run until the disk is unlocked, by whomever; exit status 1 after a text when the file cannot be used."""
    client, told = UnlockClient(), ""

    def tell(text: str) -> None:
        nonlocal told
        if text != told:
            print(text, flush=True)
        told = text

    waited = False
    while True:
        locked = is_locked(client)
        if locked:
            try:
                stage = read()
            except BootStageError as error:
                print(error, file=sys.stderr)
                return 1
            if stage is None or not stage.key or unlock(stage, client, tell):
                return 0
            waited = True
        elif waited or MAPPED.exists():
            return 0
        time.sleep(_AGAIN if locked else 1.0)


if __name__ == "__main__":
    sys.exit(main())
