"""The bootstrap of a relay: keys and addresses for the first tunnel, made once on the owner's computer."""

from __future__ import annotations

import base64
import fcntl
import ipaddress
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from builder.certificates import key_of, make_certificate
from builder.errors import BuildError
from model.mtls import AnyHome, AnyRelay, MtlsHome, MtlsRelay
from model.openvpn import HOME_NAME, RELAY_NAME, public_half
from model.site import Relay, Transport
from model.tunnel import Addresses, HomeEnd, RelayEnd
from stack.durable import write_atomically

_SUFFIX = ".keys"
_FORMER = ".former"

_TUNNELS = ipaddress.IPv4Network("10.128.0.0/9")
"""Where the tunnel's IPv4 addresses come from: the half of 10.0.0.0/8 that routers for homes do not start with."""


class Bootstrap(BaseModel):
    """Both ends of one tunnel."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    home: AnyHome
    relay: AnyRelay

    @model_validator(mode="after")
    def _ends_fit(self) -> Self:
        # Ends of two different tunnels never shake hands, and neither of them would say why.
        if not _keys_fit(self.home, self.relay):
            raise ValueError("the keys of the two ends do not belong together")
        if (self.home.addresses, self.home.port) != (self.relay.addresses, self.relay.port):
            raise ValueError("the addresses of the two ends do not belong together")
        return self

    @property
    def transport(self) -> Transport:
        """What they speak with each other."""
        return Transport.MTLS if isinstance(self.home, MtlsHome) else Transport.WIREGUARD


def keys_folder(site: Path) -> Path:
    """Name the folder with the keys of a site; it lies beside its file."""
    return site.with_name(f"{site.stem}{_SUFFIX}")


def has_bootstrap(site: Path, relay: Relay) -> bool:
    """Tell whether the bootstrap of a relay was made before."""
    # Unlike Path.exists(), it does not end for a folder that is closed; open_bootstrap() says what to do about one.
    return os.path.exists(bootstrap_file(site, relay))  # noqa: PTH110


def bootstrap_file(site: Path, relay: Relay) -> Path:
    """Name the file with both halves of a relay's bootstrap. A secret."""
    return keys_folder(site) / f"{relay.address}.json"


def open_bootstrap(site: Path, relay: Relay, *, renew: bool = False) -> Bootstrap:
    """Give the bootstrap of a relay: the one that was made before, or a new one.

    Args:
        site: the file of the site; the keys are kept in a folder beside it that only its owner may enter.
        renew: make a new one in any case. The one before is kept beside it, with an ending of its own, until the next
            time: a device may go by it until it has been given the new one.

    Raises:
        BuildError: the folder is open to others, the file in it is damaged or of the other transport, or a new one
            cannot be written.
    """
    folder = keys_folder(site)
    path = bootstrap_file(site, relay)
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        if (mode := stat.S_IMODE(folder.stat().st_mode)) & 0o077:
            raise BuildError(
                f"{folder}: found permissions {mode:04o}, expected 0700; the keys in it are for nobody else",
                f"chmod 0700 {folder}; if somebody may have read them, delete it and set up the relay anew",
            )
        with _locked(folder):
            if path.exists() and not renew:
                return _of_transport(Bootstrap.model_validate_json(path.read_bytes()), relay, path)
            made = make_bootstrap(relay)
            # Whoever keeps the site's file in a repository wants it there without its keys.
            write_atomically(folder / ".gitignore", b"*\n", 0o600)
            if path.exists():
                write_atomically(path.with_name(path.name + _FORMER), path.read_bytes(), 0o600)
            write_atomically(path, made.model_dump_json(indent=2).encode() + b"\n", 0o600)
    except ValidationError as error:
        found = error.errors()[0]
        where = f"{'.'.join(map(str, found['loc']))}: " if found["loc"] else ""
        raise BuildError(
            f"{path}: {where}{found['msg']}",
            "take the file from a backup; without it, delete it and set up the relay anew",
        ) from None
    except OSError as error:
        raise BuildError(
            f"{error.filename or path}: {error.strerror}", "the keys lie beside the site's file"
        ) from error
    return made


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep others out of a folder: two first calls at once would give keys of two tunnels, and keep those of one."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def make_bootstrap(relay: Relay) -> Bootstrap:
    """Make keys and addresses: a random unique local IPv6 prefix (RFC 4193 §3.2.2) and a random pair of IPv4."""
    prefix = int.from_bytes(b"\xfd" + os.urandom(5) + b"\0\0") << 64
    pair = int(_TUNNELS.network_address) + 2 * secrets.randbelow(_TUNNELS.num_addresses // 2)
    addresses = Addresses(
        home4=ipaddress.IPv4Address(pair + 1),
        relay4=ipaddress.IPv4Address(pair),
        home6=ipaddress.IPv6Address(prefix + 2),
        relay6=ipaddress.IPv6Address(prefix + 1),
    )
    if relay.transport is Transport.MTLS:
        return _certificates(relay, addresses)
    home_private, home_public = _key_pair()
    relay_private, relay_public = _key_pair()
    return Bootstrap(
        home=HomeEnd(private_key=home_private, relay_key=relay_public, relay=relay.address, addresses=addresses),
        relay=RelayEnd(private_key=relay_private, home_key=home_public, addresses=addresses),
    )


def _certificates(relay: Relay, addresses: Addresses) -> Bootstrap:
    home, server = make_certificate(HOME_NAME, server=False), make_certificate(RELAY_NAME, server=True)
    shield = secrets.token_hex(256)
    return Bootstrap(
        home=MtlsHome(
            private_key=home.private_key,
            certificate=home.certificate,
            other=public_half(server.certificate),
            shield=shield,
            relay=relay.address,
            addresses=addresses,
        ),
        relay=MtlsRelay(
            private_key=server.private_key,
            certificate=server.certificate,
            other=public_half(home.certificate),
            shield=shield,
            addresses=addresses,
        ),
    )


def _keys_fit(home: AnyHome, relay: AnyRelay) -> bool:
    if isinstance(home, HomeEnd) and isinstance(relay, RelayEnd):
        return (home.relay_key, relay.home_key) == (_public(relay.private_key), _public(home.private_key))
    if isinstance(home, MtlsHome) and isinstance(relay, MtlsRelay):
        own = all(key_of(end.certificate, end.private_key) for end in (home, relay))
        pins = (home.other, relay.other) == (public_half(relay.certificate), public_half(home.certificate))
        return own and pins and home.shield == relay.shield
    return False


def _of_transport(found: Bootstrap, relay: Relay, path: Path) -> Bootstrap:
    if found.transport is not relay.transport:
        raise BuildError(
            f"{path}: found the keys of a relay with `transport: {found.transport}`, expected "
            f"`transport: {relay.transport}` as in the site's file",
            f"write `transport: {found.transport}` again, or delete it and set up relay and device anew",
        )
    return found


def _public(private: str) -> str:
    key = X25519PrivateKey.from_private_bytes(base64.b64decode(private)).public_key()
    return base64.b64encode(key.public_bytes_raw()).decode()


def _key_pair() -> tuple[str, str]:
    private = base64.b64encode(X25519PrivateKey.generate().private_bytes_raw()).decode()
    return private, _public(private)
