"""What home has outside of its encrypted disk so that the relay helps to unlock it, and how it is used.

The disk's key lies there encrypted (JWE, by clevis(1)); it takes what the relay's Tang answers to a blinded
question, through a tunnel of its own key in which nothing but Tang answers. The relay learns nothing of the disk's key.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from home.tunnel_link import Link, Wire
from model.tunnel import MTU, Address6, Key
from model.unlock import BOOT_INTERFACE, TANG_PORT
from stack.durable import sync_folder, write_atomically

FILE = Path("/state/unlock/relay.json")

_TRY = 10.0
"""Seconds for which each address of the relay is tried: two attempts at a handshake (REKEY_TIMEOUT, 5 s)."""

_AGAIN = 0.5

_TOOL_SECONDS = 20.0


class BootStageError(Exception):
    """The key cannot be had from the relay; the text says why."""


class BootStage(BaseModel):
    """The file on `state`. With it, the disk and the relay's help the disk opens; without any of them it does not.

    Args:
        disk: the container's identifier.
        private_key: home's, of this tunnel alone.
        relay_keys: the public keys that the relay may have: the one that holds, and while keys change the next one.
        addresses: the relay's, as they were last found.
        port: its UDP port.
        key: the disk's key, encrypted.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    version: Literal[1] = 1
    disk: UUID
    private_key: Key = Field(repr=False)
    relay_keys: tuple[Key, ...]
    addresses: tuple[str, ...]
    port: Annotated[int, Field(ge=1, le=65535)]
    home6: Address6
    relay6: Address6
    key: str = Field("", repr=False)

    @property
    def url(self) -> str:
        """Where Tang answers."""
        return tang_url(str(self.relay6))


def tang_url(relay6: str) -> str:
    """Give the URL of Tang on a relay."""
    return f"http://[{relay6}]:{TANG_PORT}"


def read(path: Path = FILE) -> BootStage | None:
    """Read the file; None when there is none.

    Raises:
        BootStageError: it is damaged.
    """
    try:
        return BootStage.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise BootStageError(
            f"{path} is damaged ({error.error_count()} places); `darkpipe disk change-policy passphrase` ends it"
        ) from None


def write(stage: BootStage, path: Path = FILE) -> None:
    """Write the file, the old or the new one whatever happens.

    Raises:
        OSError: the disk has failed.
    """
    path.parent.mkdir(mode=0o700, exist_ok=True)
    sync_folder(path.parent.parent)
    write_atomically(path, stage.model_dump_json().encode(), 0o600)


def wires(stage: BootStage) -> Iterator[Wire]:
    """Give the tunnel's end for each key that the relay may have."""
    for relay_key in stage.relay_keys:
        allowed = f"{stage.relay6}/128"
        settings = (
            f"[Interface]\nPrivateKey = {stage.private_key}\n[Peer]\nPublicKey = {relay_key}\nAllowedIPs = {allowed}\n"
        )
        four = (f"link set dev {BOOT_INTERFACE} mtu {MTU} addrgenmode none", f"link set dev {BOOT_INTERFACE} up")
        six = (
            f"address replace {stage.home6}/128 dev {BOOT_INTERFACE} nodad",
            f"route replace {stage.relay6}/128 dev {BOOT_INTERFACE} src {stage.home6}",
        )
        yield Wire(BOOT_INTERFACE, settings, (four, six), relay_key, stage.port, allowed)


@contextmanager
def tunnel(
    stage: BootStage, addresses: Iterable[str], stop: Callable[[], bool], clock: Callable[[], float] = time.monotonic
) -> Iterator[None]:
    """Have the boot stage's tunnel for the block, by whichever key and address of the relay works.

    Args:
        addresses: the relay's.
        stop: whether to give up.

    Raises:
        BootStageError: none does.
        LinkError: a tool refuses.
    """
    found = list(addresses)
    for wire in wires(stage):
        link = Link(wire)
        try:
            link.make()
            if any(_answers(link, address, stop, clock) for address in found):
                yield
                return
        finally:
            link.remove()
    raise BootStageError("the relay does not answer to the key that the device has before its disk is unlocked")


def _answers(link: Link, address: str, stop: Callable[[], bool], clock: Callable[[], float]) -> bool:
    link.point(address)
    end = clock() + _TRY
    while clock() < end and not stop():
        if (reading := link.read()) and reading.handshake:
            return True
        time.sleep(_AGAIN)
    return False


def encrypt(key: bytes, url: str, thumbprint: str) -> str:
    """Encrypt a key so that it takes the Tang behind a URL to decrypt it (clevis-encrypt-tang(1)).

    Args:
        thumbprint: of the key that Tang's keys are signed by; another Tang is refused.

    Raises:
        BootStageError: Tang does not answer, or is another one.
    """
    pin = f'{{"url":"{url}","thp":"{thumbprint}"}}'  # no secret
    return _clevis("encrypt", "tang", pin, given=key).decode("ascii")


def decrypt(encrypted: str) -> bytes:
    """Decrypt it with the help of Tang (clevis-decrypt(1)).

    Raises:
        BootStageError: Tang does not answer, or has other keys.
    """
    return _clevis("decrypt", given=encrypted.encode("ascii"))


def _clevis(*words: str, given: bytes) -> bytes:
    # It is a script whose own programs wait for the answer, and would go on waiting without it.
    piped = subprocess.PIPE
    try:
        tool = subprocess.Popen(["clevis", *words], stdin=piped, stdout=piped, stderr=piped, start_new_session=True)
    except OSError as error:
        raise BootStageError(f"clevis {words[0]}: {type(error).__name__}") from None
    with tool:
        try:
            found, warnings = tool.communicate(given, timeout=_TOOL_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(tool.pid, signal.SIGKILL)
            raise BootStageError(f"clevis {words[0]}: no answer in {_TOOL_SECONDS:.0f} seconds") from None
    if tool.returncode != 0:
        said = warnings.decode(errors="replace").strip().splitlines() or ["it said nothing"]
        raise BootStageError(f"clevis {words[0]}: {said[-1]}")
    return found
