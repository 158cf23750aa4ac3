"""What DarkPipe measures into the TPM's register 13, each before it is obeyed.

A key that is sealed to the system alone would be given to a thief, since the genuine system obeys files that lie open:
with an SSH key in its settings or an account on a data disk of his own he is root in it. So, in this order:

- `firmware`: what the firmware tells systemd; by the initramfs (profiles/x64/initramfs/scripts/init-bottom).
- `settings`: those that take effect, from `state` or the Raspberry Pi Imager's files; before there is a login.
- `disk`: what the data disk's head says of its encryption, so that no other head gets at the key.
- `pending`: what lies on the boot partition to be taken over; only for a disk that is there, and if there is any.
- `closed`: always before the data disk is mounted. From then on no key is given any more, nor sealed.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path

from firstboot.imager import FILES, ImagerError
from firstboot.partitions import DiskError
from firstboot.seed import SeedError, boot_partition
from firstboot.settings import SettingsError, look_ahead
from firstboot.tpm import OURS, Tpm, TpmError, after, expect_power_cut, extend, read
from model.document import SEED_NAME
from model.owner_code import CODE_NAME
from model.settings import Settings
from model.tunnel import HOME_FILE

LOG = Path("/run/darkpipe/measured")
"""What was measured, a line each: what it is, and its SHA-256. The initramfs writes the first one."""

_PENDING = (*FILES, SEED_NAME, HOME_FILE, CODE_NAME)
_LARGEST = 16 * 2**20


class What(StrEnum):
    """What is measured; the names in the log."""

    FIRMWARE = "firmware"
    SETTINGS = "settings"
    DISK = "disk"
    PENDING = "pending"
    CLOSED = "closed"


class Measurements:
    """The measurements of this start.

    Args:
        tpm: the device's.
        log: the file that keeps them, in memory.
    """

    def __init__(self, tpm: Tpm, log: Path = LOG) -> None:
        self.tpm = tpm
        self._log = log

    def measure(self, what: What, content: bytes) -> None:
        """Measure something, once a start: what was measured already is not measured again.

        Raises:
            TpmError: it was not done.
            OSError: the log cannot be written.
        """
        if what in self.done():
            return
        digest = hashlib.sha256(content).hexdigest()
        # In the log first: after a failure in between, the register is not what the log says, and nothing is sealed.
        self._log.parent.mkdir(mode=0o755, exist_ok=True)
        with self._log.open("a", encoding="ascii") as log:
            log.write(f"{what} {digest}\n")
        extend(self.tpm, bytes.fromhex(digest))

    def done(self) -> dict[str, str]:
        """Give what was measured, in order: the SHA-256 of each, in hexadecimal digits."""
        try:
            rows = [line.split() for line in self._log.read_text(encoding="ascii").splitlines()]
        except FileNotFoundError:
            return {}
        return dict(row for row in rows if len(row) == 2)

    def agree(self) -> bool:
        """Tell whether the TPM's register is what the log says, and nothing else has extended it.

        Raises:
            TpmError: it cannot be read.
        """
        return read(self.tpm, OURS) == after(map(bytes.fromhex, self.done().values()))

    def close(self) -> None:
        """Let nobody get at a sealed key until the next start; on return that is so.

        Raises:
            TpmError: it cannot be said that it is.
        """
        if What.CLOSED in self.done() and self.agree():
            return
        before = read(self.tpm, OURS)
        if What.CLOSED in self.done():  # and then the TPM failed
            extend(self.tpm, bytes(32))
        else:
            self.measure(What.CLOSED, b"the disk for the mail is going to be mounted")
        # One that keeps no SHA-256 has nothing sealed to it.
        if before and read(self.tpm, OURS) == before:
            raise TpmError("the TPM does not extend its register")
        expect_power_cut(self.tpm)


def measure_settings(measurements: Measurements, look: Callable[[], Settings] = look_ahead) -> None:
    """Measure the settings that are about to take effect; must be called before they do.

    Raises:
        TpmError, OSError: it was not done.
    """
    try:
        settings = look().model_dump_json()
    except (SettingsError, ImagerError, SeedError, DiskError, OSError):
        settings = "cannot be used"  # and none takes effect
    measurements.measure(What.SETTINGS, settings.encode())


def measure_disk(measurements: Measurements, description: Mapping[str, object]) -> None:
    """Measure what the head of the data disk says of its encryption (`Luks.describe`).

    Raises:
        TpmError, OSError: it was not done.
    """
    measurements.measure(What.DISK, json.dumps(description, sort_keys=True).encode())


def measure_pending(measurements: Measurements) -> None:
    """Measure what lies on the boot partition to be taken over; nothing happens when nothing does.

    Raises:
        TpmError, OSError: it was not done.
    """
    with boot_partition(writable=False) as boot:
        found = read_pending(boot) if boot else b""
    if found:
        measurements.measure(What.PENDING, found)


def read_pending(boot: Path) -> bytes:
    """Describe the files on the boot partition that the device would take over; empty when there are none."""
    rows = []
    for name in _PENDING:
        if (boot / name).is_file():
            with (boot / name).open("rb") as file:
                rows.append(f"{name} {hashlib.sha256(file.read(_LARGEST)).hexdigest()}\n")
    return "".join(rows).encode()


def close_tpm(tpm: Tpm | None, log: Path = LOG, *, sealed: bool = True) -> None:
    """Let nobody get at a sealed key until the next start. Without a TPM there is none.

    Args:
        sealed: whether the TPM unlocks the disk that is going to be mounted. A broken one keeps no other disk away; who
            exchanges the disk cannot break it, except with a probe on its bus, which would see the key itself.

    Raises:
        DiskError: nobody can tell whether it worked, and the data disk must not be mounted.
    """
    if tpm is None:
        return
    try:
        Measurements(tpm, log).close()
    except (TpmError, OSError) as error:
        if not sealed:
            print(f"the TPM cannot be closed: {error}; nothing of this disk is sealed to it", file=sys.stderr)
            return
        raise DiskError(
            f"its TPM, which must not unlock anything from now on, fails: {error}. Start again; if it stays like this, "
            "switch the TPM off in the firmware's settings: a passphrase or the recovery secret unlocks the disk"
        ) from error
