"""The TPM 2.0 of the device: its registers (PCRs), and keys that it gives out again only while these are the same.

The two commands for registers are short enough to be written here; systemd-pcrextend(8) ends well, too, when it did
nothing. Sealing is systemd-creds(1)' work.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import struct
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

DEVICE = Path("/dev/tpmrm0")

BOUND = (0, 2, 4, 7, 11, 12, 13)
"""What a key is bound to (UAPI group, Linux TPM PCR Registry): firmware (0); its drivers, also those that systemd-boot
loads from the boot partition (2); boot loader and kernel image (4); Secure Boot (7); what is in that image (11); what
was given to it besides (12) and what DarkPipe measures (13)."""

OURS = 13
"""It is otherwise for extensions of the system, which DarkPipe has none of; the initramfs extends it first."""

_NAME = "darkpipe-data"
_SHA256 = 0x000B
_PCR_READ, _PCR_EXTEND, _SHUTDOWN = 0x17E, 0x182, 0x145
_NO_SESSIONS, _SESSIONS = 0x8001, 0x8002
_PASSWORD_SESSION = 0x40000009
_LONGEST_ANSWER = 4096


class TpmError(Exception):
    """The TPM did not do it; the text says why."""


Tpm = Callable[[bytes], bytes]
"""Sends a command to a TPM and gives the answer."""


def open_tpm(device: Path = DEVICE) -> Tpm | None:
    """Give the device's TPM; None when it has none."""
    if not device.exists():
        return None

    def ask(command: bytes) -> bytes:
        try:
            with device.open("r+b", buffering=0) as file:
                file.write(command)
                return file.read(_LONGEST_ANSWER) or b""
        except OSError as error:
            raise TpmError(f"{device} does not answer: {error.strerror}") from error

    return ask


def extend(tpm: Tpm, digest: bytes, register: int = OURS) -> None:
    """Extend a register by a SHA-256 (TPM 2.0 Library, part 3, §22.2).

    Raises:
        TpmError: it was not done.
    """
    # One session, which is an empty password; one digest.
    session = struct.pack(">IIHBH", 9, _PASSWORD_SESSION, 0, 0, 0)
    _ask(tpm, _SESSIONS, _PCR_EXTEND, struct.pack(">I", register) + session + struct.pack(">IH", 1, _SHA256) + digest)


def read(tpm: Tpm, register: int) -> bytes:
    """Read a register's SHA-256 (TPM 2.0 Library, part 3, §22.4); empty when the TPM keeps none by that algorithm.

    Raises:
        TpmError: it cannot be read.
    """
    chosen = struct.pack(">IHB", 1, _SHA256, 3) + (1 << register).to_bytes(3, "little")
    # Counter of changes; which were read, as asked; how many.
    answer = _ask(tpm, _NO_SESSIONS, _PCR_READ, chosen)
    selections, place = int.from_bytes(answer[4:8]), 8
    for _ in range(selections):
        place += 3 + answer[place + 2]
    if not int.from_bytes(answer[place : place + 4]):
        return b""
    length = int.from_bytes(answer[place + 4 : place + 6])
    return answer[place + 6 : place + 6 + length]


def expect_power_cut(tpm: Tpm) -> None:
    """Tell the TPM that its power may go from now on (TPM2_Shutdown; TPM 2.0 Library, part 3, §9.4).

    Else it takes each power cut after it was asked for a key for a wrong guess, and after some of these it gives out
    none for minutes or hours (part 1, §19.8). Its registers stay as they are.

    Raises:
        TpmError: it does not take it.
    """
    _ask(tpm, _NO_SESSIONS, _SHUTDOWN, struct.pack(">H", 0))


def after(digests: Iterable[bytes]) -> bytes:
    """Compute what DarkPipe's register is after some extensions (TPM 2.0 Library, part 1, §17.4)."""
    value = bytes(32)
    for digest in digests:
        value = hashlib.sha256(value + digest).digest()
    return value


def _ask(tpm: Tpm, tag: int, code: int, rest: bytes) -> bytes:
    answer = tpm(struct.pack(">HII", tag, 10 + len(rest), code) + rest)
    if len(answer) < 10:
        raise TpmError("the TPM gives no answer")
    if status := int.from_bytes(answer[6:10]):
        raise TpmError(f"the TPM refuses a command: error 0x{status:03x}")
    return answer[10:]


@dataclass(frozen=True)
class Sealer:
    """Gives keys to the TPM, bound to its registers as they are now, and gets them back.

    Args:
        device: the TPM, as systemd-creds(1) names it (`--tpm2-device=`).
        program: systemd-creds.
    """

    device: str = str(DEVICE)
    program: str = "systemd-creds"

    def seal(self, key: bytes) -> str:
        """Give what only this TPM, with these registers, turns into the key again.

        Raises:
            TpmError: it cannot.
        """
        bound = "+".join(map(str, BOUND))
        made = self._run("encrypt", key, "--with-key=tpm2", f"--tpm2-pcrs={bound}")
        return b"".join(made.split()).decode("ascii")

    def unseal(self, sealed: str) -> bytes:
        """Get a key back.

        Raises:
            TpmError: the registers have changed, it is another TPM, or it does not give anything at the moment.
        """
        try:
            base64.b64decode(sealed, validate=True)
        except (binascii.Error, ValueError):
            raise TpmError("what was sealed is damaged") from None
        return self._run("decrypt", sealed.encode("ascii"))

    def _run(self, verb: str, given: bytes, *options: str) -> bytes:
        # The key goes through pipes: no other process sees those.
        command = [self.program, verb, f"--name={_NAME}", f"--tpm2-device={self.device}", *options, "-", "-"]
        try:
            done = subprocess.run(command, input=given, capture_output=True, check=False)
        except OSError as error:
            raise TpmError(f"{self.program} cannot be run: {error.strerror}") from error
        if done.returncode != 0:
            said = done.stderr.decode(errors="replace").strip().splitlines() or ["it says nothing"]
            raise TpmError(f"systemd-creds {verb} failed: {said[-1]}")
        return done.stdout
