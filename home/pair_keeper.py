"""Does what home.pairing decides: what is kept goes to the disk first."""

from __future__ import annotations

import hashlib
import ipaddress
import json
import secrets
import subprocess
import time
from collections.abc import Callable, Sequence
from http import HTTPStatus
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from home.control_client import ControlClient, Home
from home.control_errors import ControlFailure, Refused
from home.pairing import (
    Answered,
    Ask,
    AskToConfirm,
    Change,
    Claim,
    Done,
    Event,
    Failed,
    Kept,
    Keys,
    Own,
    Publish,
    State,
    Tell,
    Use,
    Which,
    offer_of,
    step,
)
from home.pairing_file import Document, write
from home.relay_peer import CONTROL, PEER, RELAY, Peer, write_peer
from model import openvpn
from model.control import AGENT_PORT
from model.control_tls import Pins, certificate_command, certificate_of
from model.mtls import AnyHome, MtlsHome
from model.pairing import Confirm, Counter
from model.tunnel import Addresses, HomeEnd
from model.wireguard import HOME_INTERFACE
from stack.durable import write_atomically

STATE_FILE = "state.json"
_IN_USE = "in-use.pem"
_PUBLISHED = "published"
"""A digest of what home's other programs were last told of."""

_TUNNELS = IPv4Network("10.128.0.0/9")
"""Where the tunnel's IPv4 addresses come from: the half of 10.0.0.0/8 that routers for homes do not start with."""

_TRIES = 1000


class ToolError(Exception):
    """A tool on this device refuses; the text is the tool's."""


class Keeper:
    """Home's keys.

    Args:
        document: as it is on the disk.
        folder: home's folder for pairing.
        tunnel_file: what darkpipe-tunnel goes by.
        prepare: is called before an offer in the bootstrap's tunnel, with the relay's address there; it brings the
            relay its software, and raises ControlFailure when that is not possible.
        published: is called after home's other programs have other files to read.
    """

    def __init__(
        self,
        document: Document,
        folder: Path,
        tunnel_file: Path,
        prepare: Callable[[str], None],
        published: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
        port: int = AGENT_PORT,
    ) -> None:
        self.bootstrap, self.state = document.bootstrap, State(document.kept)
        self._written = document
        self._folder, self._tunnel_file = folder, tunnel_file
        self._prepare, self._published, self._clock, self._port = prepare, published, clock, port

    @property
    def keys(self) -> Keys | None:
        """The keys that the tunnel uses; None for the bootstrap's."""
        kept = self.state.kept
        return {Which.BASE: kept.base, Which.NEXT: kept.following, Which.BOOTSTRAP: None}[self.state.using]

    @property
    def end(self) -> AnyHome:
        """Home's end of the tunnel as it is now."""
        return home_end(self.bootstrap, self.keys)

    def happen(self, event: Event, bootstrap: AnyHome | None = None) -> None:
        """Let something happen, and all that follows from it.

        Args:
            bootstrap: another one, of another relay.

        Raises:
            OSError: the disk has failed, and nothing was done.
        """
        events: list[Event] = [event]
        while events:
            state, actions = step(self.state, events.pop(0))
            document = Document(bootstrap or self.bootstrap, state.kept)
            if document != self._written:
                write(self._folder / STATE_FILE, document)
                self._written = document
            self.state, self.bootstrap = state, document.bootstrap
            for action in actions:
                match action:
                    case Use():
                        self._write_tunnel()
                    case Publish():
                        self._publish(state.kept)
                    case Tell(text):
                        print(text, flush=True)
                    case Ask(own):
                        events.append(self._offer(own))
                    case AskToConfirm(confirm):
                        events.append(self._confirm(confirm))

    def client(self, keys: Keys | None) -> ControlClient:
        """Make a client of the relay's agent.

        Raises:
            CertificateError, OSError: the certificates cannot be used.
        """
        kept = self.state.kept
        place = (str(self.end.addresses.relay6), self._port)
        if keys is None:
            return ControlClient(place, Home(kept.home, kept.epoch), None)
        path = self._folder / _IN_USE
        write_atomically(path, keys.own.pem.encode(), 0o600)  # ssl reads keys from files only
        try:
            pins = Pins(path, keys.relay.certificate, server=False)
        finally:
            path.unlink()
        return ControlClient(place, Home(kept.home, kept.epoch, keys.relay.relay), pins)

    def make_own(self, avoiding: Sequence[IPv4Network] | None = None, *, other: bool = False) -> Own:
        """Make home's half of new keys, with addresses that no network at home has.

        Args:
            avoiding: these networks; None to ask the system.
            other: whether the addresses of now will not do, whatever the networks say.

        Raises:
            ToolError: a tool refuses.
        """
        networks = home_networks() if avoiding is None else avoiding
        ends = self.end.addresses
        pair = (str(ends.home4), str(ends.relay4))
        if other or clashes(pair, networks):
            pair = free_pair(networks)
        return make_own(f"darkpipe-home-{self.state.kept.home[:8]}", pair, mtls=isinstance(self.bootstrap, MtlsHome))

    def replace(self, bootstrap: AnyHome) -> None:
        """Turn to another relay, with another bootstrap; the keys of the one before are forgotten.

        Raises:
            ToolError: a tool refuses, and nothing was done.
            OSError: the disk has failed, and nothing was done.
        """
        networks = home_networks()
        ends = bootstrap.addresses
        pair = (str(ends.home4), str(ends.relay4))
        own = make_own(
            f"darkpipe-home-{self.state.kept.home[:8]}",
            free_pair(networks) if clashes(pair, networks) else pair,
            mtls=isinstance(bootstrap, MtlsHome),
        )
        self.happen(Claim(self._clock(), own), bootstrap)

    def _offer(self, own: Own) -> Event:
        kept = self.state.kept
        try:
            if kept.base is None:
                self._prepare(str(self.end.addresses.relay6))
            with self.client(kept.base) as client:
                path = "/rotate" if kept.base else "/exchange"
                counter = client.send("POST", path, offer_of(kept, own, int(time.time()))).message(Counter)
        except Refused as refused:
            if refused.status == HTTPStatus.PRECONDITION_FAILED:
                return Failed(self._clock(), str(refused), refused=True, other=self.make_own(other=True))
            return Failed(self._clock(), str(refused), refused=True)
        except ControlFailure as failure:
            return Failed(self._clock(), str(failure))
        if openvpn.is_fingerprint(counter.key) != openvpn.is_fingerprint(own.public):
            # Refused: a paired home goes on with the keys that it has.
            return Failed(self._clock(), "the relay has answered with a key of another transport", refused=True)
        return Answered(self._clock(), counter)

    def _confirm(self, confirm: Confirm) -> Event:
        try:
            with self.client(self.state.kept.following) as client:
                client.send("POST", "/confirm", confirm).message(Confirm)
        except ControlFailure as failure:
            return Failed(self._clock(), str(failure))
        return Done(self._clock(), int(time.time()))

    def _write_tunnel(self) -> None:
        content = f"{self.end.model_dump_json(indent=2)}\n".encode()
        if not self._tunnel_file.exists() or self._tunnel_file.read_bytes() != content:
            write_atomically(self._tunnel_file, content, 0o600)

    def _publish(self, kept: Kept) -> None:
        """Write what home's other programs read."""
        if kept.base is None:
            (self._folder / PEER).unlink(missing_ok=True)
            self._tell("")
            return
        # While keys change, the relay's queue may show the one certificate or the other.
        certificates = kept.base.relay.certificate + (kept.answer.certificate if kept.answer else "")
        peer = Peer(
            home=kept.home,
            home_epoch=kept.epoch,
            relay=kept.base.relay.relay,
            address=self.bootstrap.addresses.relay6,
        )
        wanted = {CONTROL: kept.base.own.pem, RELAY: certificates}
        changed = [name for name, text in wanted.items() if _text(self._folder / name) != text]
        for name in changed:
            write_atomically(self._folder / name, wanted[name].encode(), 0o600)
        if changed or _text(self._folder / PEER) != f"{peer.model_dump_json()}\n":
            write_peer(self._folder, peer)
        self._tell(hashlib.sha256("\0".join([*wanted.values(), peer.model_dump_json()]).encode()).hexdigest())

    def _tell(self, digest: str) -> None:
        """Let other programs read their files, if these have changed since they were last told."""
        if _text(self._folder / _PUBLISHED) != digest:
            self._published()
            # Written last: after a kill before it, they are told once more.
            write_atomically(self._folder / _PUBLISHED, digest.encode(), 0o600)


def home_end(bootstrap: AnyHome, keys: Keys | None) -> AnyHome:
    """Give home's end of the tunnel for some keys; None for the bootstrap's."""
    if keys is None:
        return bootstrap
    ends = bootstrap.addresses
    addresses = Addresses(
        home4=IPv4Address(keys.own.home4), relay4=IPv4Address(keys.own.relay4), home6=ends.home6, relay6=ends.relay6
    )
    if isinstance(bootstrap, MtlsHome):
        key, certificate = openvpn.parts(keys.own.key)
        return MtlsHome(
            private_key=key,
            certificate=certificate,
            other=keys.relay.key,
            shield=bootstrap.shield,
            relay=bootstrap.relay,
            port=bootstrap.port,
            addresses=addresses,
        )
    return HomeEnd(
        private_key=keys.own.key,
        relay_key=keys.relay.key,
        relay=bootstrap.relay,
        port=bootstrap.port,
        addresses=addresses,
    )


def clashes(pair: tuple[str, str], networks: Sequence[IPv4Network]) -> bool:
    """Tell whether one of the tunnel's addresses is in one of some networks."""
    return any(IPv4Address(address) in network for address in pair for network in networks)


def free_pair(networks: Sequence[IPv4Network]) -> tuple[str, str]:
    """Choose addresses for the tunnel's two ends that no network has; home's first.

    Raises:
        ToolError: the networks leave none.
    """
    for _ in range(_TRIES):
        first = int(_TUNNELS.network_address) + 2 * secrets.randbelow(_TUNNELS.num_addresses // 2)
        pair = (str(IPv4Address(first + 1)), str(IPv4Address(first)))
        if not clashes(pair, networks):
            return pair
    raise ToolError(f"the networks that this device is in leave no address of {_TUNNELS} for the tunnel")


def home_networks() -> Sequence[IPv4Network]:
    """Give the networks that this device is in, without the tunnel's.

    Raises:
        ToolError: ip(8) refuses.
    """
    found = []
    for route in json.loads(_run("ip", "-json", "-4", "route", "show", "table", "main")):
        where = route.get("dst", "default")
        if route.get("dev") != HOME_INTERFACE and where != "default":
            found.append(ipaddress.IPv4Network(where, strict=False))
    return found


def make_own(name: str, pair: tuple[str, str], *, mtls: bool = False) -> Own:
    """Make home's half of new keys.

    Args:
        name: for the control plane's certificate.
        pair: the tunnel's addresses in IPv4.
        mtls: whether the tunnel is OpenVPN's.

    Raises:
        ToolError: a tool refuses.
    """
    pem = _run(*certificate_command(name))
    if mtls:
        key = _run(*openvpn.certificate_command(openvpn.HOME_NAME))
        return Own("".join(openvpn.parts(key)), openvpn.public_half(key), pem, certificate_of(pem), *pair)
    private = _run("wg", "genkey").strip()
    return Own(private, _run("wg", "pubkey", text=private).strip(), pem, certificate_of(pem), *pair)


def begin_pairing(keeper: Keeper, now: float) -> None:
    """Offer keys to the relay, unless home is paired or has begun already.

    Args:
        now: seconds of the keeper's clock.
    """
    kept = keeper.state.kept
    if kept.base is None and kept.own is None:
        keeper.happen(Change(now, keeper.make_own()))


def _text(path: Path) -> str:
    """Read a file that is written again unless it has what it should have."""
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except FileNotFoundError:
        return ""


def _run(*argv: str, text: str = "") -> str:
    try:
        done = subprocess.run(argv, input=text, capture_output=True, text=True, check=False, timeout=15)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ToolError(f"{argv[0]}: {error}") from None
    if done.returncode != 0:
        raise ToolError(f"{argv[0]} {argv[1]}: {done.stderr.strip()}")
    return done.stdout
