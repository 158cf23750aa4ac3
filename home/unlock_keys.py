"""The keys by which the relay helps to unlock the disk: made at home, kept on the encrypted disk, given to each relay.

A relay that is built anew or replaced gets the same ones when it is paired, so that a new server locks nobody out.
"""

from __future__ import annotations

import json
import secrets
import subprocess
from ipaddress import IPv6Address
from pathlib import Path
from typing import Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from home.boot_stage import BootStage, BootStageError
from home.tunnel_link import LinkError, run_tool
from model.tunnel import Address6, HomeEnd, Key
from model.unlock import UnlockKeys
from stack.durable import write_atomically

FILE = "unlock.json"
"""In home's folder for pairing."""

_PARTS = ("alg", "crv", "d", "kty", "x", "y")
"""Members of a JWK (RFC 7518 §6.2) that are kept; the relay adds what each key is for."""


class UnlockKeysFile(BaseModel):
    """All secrets of the boot stage but the disk's key.

    Args:
        disk: the container's identifier.
        private_key: WireGuard's.
        sign, exchange: Tang's keys.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    disk: UUID
    private_key: Key = Field(repr=False)
    peer: Key
    home6: Address6
    relay6: Address6
    sign: dict[str, str] = Field(repr=False)
    exchange: dict[str, str] = Field(repr=False)
    thumbprint: str

    def for_relay(self) -> UnlockKeys:
        """Give what the relay must know."""
        return UnlockKeys(self.peer, str(self.home6), str(self.relay6), self.sign, self.exchange)

    def for_state(
        self, relay: HomeEnd, relay_keys: tuple[str, ...], addresses: tuple[str, ...], key: str = ""
    ) -> BootStage:
        """Give what home must know before its disk is unlocked.

        Args:
            relay: where the relay is.
            relay_keys: public keys that it may have.
            addresses: the relay's.
            key: the disk's, encrypted.
        """
        return BootStage(
            disk=self.disk,
            private_key=self.private_key,
            relay_keys=relay_keys,
            addresses=addresses,
            port=relay.port,
            home6=self.home6,
            relay6=self.relay6,
            key=key,
        )


def make(disk: UUID) -> UnlockKeysFile:
    """Make all of them (wg(8), jose-jwk-gen(1)).

    Raises:
        BootStageError: a tool refuses.
    """
    network = int.from_bytes(b"\xfd" + secrets.token_bytes(7) + bytes(8))
    try:
        private = run_tool("wg", "genkey").strip()
        peer = run_tool("wg", "pubkey", text=private).strip()
    except LinkError as error:
        raise BootStageError(str(error)) from None
    sign, exchange = _jwk("ES512"), _jwk("ECMR")
    return UnlockKeysFile(
        disk=disk,
        private_key=private,
        peer=peer,
        home6=IPv6Address(network + 2),
        relay6=IPv6Address(network + 1),
        sign=sign,
        exchange=exchange,
        thumbprint=_jose("jwk", "thp", "-a", "S256", "-i-", given=json.dumps(sign)).strip(),
    )


def read(folder: Path) -> UnlockKeysFile | None:
    """Read them; None when the relay does not help to unlock the disk.

    Raises:
        BootStageError: the file is damaged.
    """
    try:
        return UnlockKeysFile.model_validate_json((folder / FILE).read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise BootStageError(f"{folder / FILE} is damaged ({error.error_count()} places)") from None


def write(keys: UnlockKeysFile, folder: Path) -> None:
    """Keep them.

    Raises:
        OSError: the disk has failed.
    """
    write_atomically(folder / FILE, keys.model_dump_json().encode(), 0o600)


def _jwk(algorithm: str) -> dict[str, str]:
    made: dict[str, Any] = json.loads(_jose("jwk", "gen", "-i", json.dumps({"alg": algorithm})))
    return {name: str(made[name]) for name in _PARTS if name in made}


def _jose(*words: str, given: str = "") -> str:
    try:
        done = subprocess.run(["jose", *words], input=given, capture_output=True, text=True, check=False)
    except OSError as error:
        raise BootStageError(f"jose: {error.strerror}") from None
    if done.returncode != 0:
        raise BootStageError(f"jose {words[0]} {words[1]}: {done.stderr.strip()}")
    return done.stdout
