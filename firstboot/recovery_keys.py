"""What derives from the recovery secret and is needed while nobody types it: on `data`."""

from __future__ import annotations

from pathlib import Path

from firstboot.recovery import RecoverySecret
from stack.durable import write_atomically
from stack.owners import SystemOwners
from stack.stack import Stack
from stack.volumes import make_volumes

RECIPIENT = Path("queue-keys/recovery.pub")
"""The age recipient to whom all that waits on the relay is sealed besides the device itself."""
BACKUP = Path("recovery/backup.key")
_VOLUMES = {path.parts[0] for path in (RECIPIENT, BACKUP)}


def keep_recovery_keys(data: Path, secret: RecoverySecret) -> None:
    """Keep the public half of the age identity, and the key of backups; on return they are durable.

    Args:
        data: folder where `data` is mounted.

    Raises:
        OSError: they cannot be kept.
    """
    make_volumes([one for one in Stack.load().volumes if one.name in _VOLUMES], data, SystemOwners())
    write_atomically(data / BACKUP, f"{secret.backup_key}\n".encode(), 0o600)
    write_atomically(data / RECIPIENT, f"{secret.recipient}\n".encode(), 0o644)


def is_recovery_secret_of(data: Path, secret: RecoverySecret) -> bool:
    """Tell whether a secret is the one whose recipient is kept.

    Raises:
        OSError: nobody can tell.
    """
    kept = (data / RECIPIENT).read_text(encoding="ascii")
    return kept.strip() == secret.recipient
