"""The bootstrap of a relay: keys and addresses for the first tunnel, made once, by the owner's computer or by home."""

from __future__ import annotations

import base64
import ipaddress
import os
import secrets
from typing import Self

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from pydantic import BaseModel, ConfigDict, model_validator

from bootstrap.certificates import key_of, make_certificate
from model.mtls import AnyHome, AnyRelay, MtlsHome, MtlsRelay
from model.openvpn import HOME_NAME, RELAY_NAME, public_half
from model.site import Relay, Transport
from model.tunnel import Addresses, HomeEnd, RelayEnd

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


def _public(private: str) -> str:
    key = X25519PrivateKey.from_private_bytes(base64.b64decode(private)).public_key()
    return base64.b64encode(key.public_bytes_raw()).decode()


def _key_pair() -> tuple[str, str]:
    private = base64.b64encode(X25519PrivateKey.generate().private_bytes_raw()).decode()
    return private, _public(private)
