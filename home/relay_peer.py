"""The relay that home is paired with, as the drain is told of it: `/data/pairing/peer.json`, without secrets.

Pairing writes it when the new keys hold, together with `control.pem` (home's key and certificate for the control plane)
and `relay.pem` (the certificates that the relay may show); each of these files is replaced as a whole.
"""

from __future__ import annotations

from ipaddress import IPv6Address
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from home.control_client import ControlClient, Home
from model.control import QUEUE_PORT
from model.control_tls import CertificateError, Pins
from stack.durable import write_atomically

FOLDER = Path("/data/pairing")
PEER, CONTROL, RELAY = "peer.json", "control.pem", "relay.pem"

_Id = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]


class PeerError(Exception):
    """The files about the relay cannot be used; the text says why, and quotes no key."""


class Peer(BaseModel):
    """Both ends of the control plane.

    Args:
        home: home's id.
        home_epoch: home's; another home with a higher one shuts this one out.
        relay: the relay's id.
        address: the relay's, in the tunnel.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    home: _Id
    home_epoch: Annotated[int, Field(ge=0)]
    relay: _Id
    address: IPv6Address


def write_peer(folder: Path, peer: Peer) -> None:
    """Replace the file; on return it is durable."""
    write_atomically(folder / PEER, f"{peer.model_dump_json()}\n".encode(), 0o600)


def read_peer(path: Path) -> Peer | None:
    """Read the file; None while home is not paired: it is missing, or empty when systemd has found none.

    Raises:
        PeerError: it is damaged.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    if not content.strip():
        return None
    try:
        return Peer.model_validate_json(content)
    except ValidationError as error:
        problems = (f"{'.'.join(map(str, found['loc']))}: {found['msg']}" for found in error.errors(include_url=False))
        raise PeerError(f"{FOLDER / PEER} is damaged: {'; '.join(problems)}") from None


def queue_client(folder: Path, peer: Peer) -> ControlClient:
    """Make a client to the relay's queue.

    Args:
        folder: with `control.pem` and `relay.pem`.

    Raises:
        PeerError: one of them cannot be used.
    """
    try:
        pins = Pins(folder / CONTROL, (folder / RELAY).read_text(encoding="ascii"), server=False)
    except (OSError, ValueError, CertificateError) as error:
        raise PeerError(f"home's key and the relay's certificate in {FOLDER} cannot be used: {error}") from None
    return ControlClient((str(peer.address), QUEUE_PORT), Home(peer.home, peer.home_epoch, peer.relay), pins)
