"""What home and relay tell each other to change to new keys: pairing, which is the first change, and each later one.

Both make a new pair of keys of the tunnel and a new key and certificate for the control plane, each where it is used.
Home offers (`POST /exchange` in the bootstrap's tunnel, `POST /rotate` in a paired one), the relay answers, both
change, and home confirms over the new tunnel (`POST /confirm`). Until then each can go back to what both had.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address

from model.control import Message
from model.control_tls import CertificateError, certificate_of
from model.openvpn import check_public, is_fingerprint

ID_DIGITS = 32

_HIGHEST = 10**12

CLOCKS_APART = 3600
"""Seconds by which the clocks of home and relay may differ."""


@dataclass(frozen=True)
class Turns:
    """How long each end stays with some keys before it tries others, in seconds.

    Args:
        relay: with the next ones, without a confirmation.
        home: with the next ones, and with those before, in turn; longer than the relay, so that it is still there when
            the relay comes back.
        look: home, with the bootstrap's keys, to see whether a relay answers that was built anew.
    """

    relay: float
    home: float
    look: float


WIREGUARD_TURNS = Turns(relay=30.0, home=40.0, look=30.0)
"""New keys are one command to WireGuard, and home confirms two or three seconds later."""

OPENVPN_TURNS = Turns(relay=150.0, home=180.0, look=120.0)
"""OpenVPN starts anew at both ends, and dials; emulated devices under load needed more than a minute."""


def turns(key: str) -> Turns:
    """Say how long each end stays with some keys.

    Args:
        key: what one of the ends is known by.
    """
    return OPENVPN_TURNS if is_fingerprint(key) else WIREGUARD_TURNS


def check_id(text: str) -> str:
    """Give back an id of home or relay.

    Raises:
        ValueError: it is none.
    """
    if len(text) != ID_DIGITS or not set(text) <= set("0123456789abcdef"):
        raise ValueError(f"expected an id of {ID_DIGITS} hexadecimal digits")
    return text


def check_pair(home4: object, relay4: object) -> None:
    """See whether two addresses can be the ends of the tunnel in IPv4.

    Raises:
        ValueError: they cannot.
    """
    if not isinstance(home4, str) or not isinstance(relay4, str):
        raise ValueError("home4, relay4: expected texts")  # IPv4Address takes numbers, too
    found = IPv4Address(home4), IPv4Address(relay4)
    if found[0] == found[1] or any(not one.is_private or one.is_loopback or one.is_link_local for one in found):
        raise ValueError(f"found {home4} and {relay4}, expected two private IPv4 addresses (RFC 1918)")


def _check_number(number: object) -> None:
    if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number <= _HIGHEST:
        raise ValueError(f"epoch, clock, versions: expected numbers from 0 to {_HIGHEST}")


def _check_certificate(pem: str) -> None:
    if "PRIVATE KEY" in pem:
        raise ValueError("found a private key, which stays where it was made")
    try:
        found = certificate_of(pem)
    except CertificateError as error:
        raise ValueError(str(error)) from None
    if found != pem:
        raise ValueError("found more than a certificate, which whoever reads it later would not take")


@dataclass(frozen=True)
class Offer(Message):
    """What home offers. The same offer may come any number of times, and gets the same answer.

    Args:
        home: its id.
        epoch: of home.
        key: what home is known by next: a public WireGuard key, or a fingerprint (model/openvpn.py).
        certificate: home's next one, PEM.
        home4, relay4: the tunnel's addresses in IPv4, which avoid home's own networks.
        clock: home's, seconds since 1970.
    """

    home: str
    epoch: int
    key: str
    certificate: str
    home4: str
    relay4: str
    clock: int

    def __post_init__(self) -> None:
        check_id(self.home)
        check_public(self.key)
        _check_certificate(self.certificate)
        check_pair(self.home4, self.relay4)
        for number in (self.epoch, self.clock):
            _check_number(number)


@dataclass(frozen=True)
class Counter(Message):
    """The relay's answer to an offer.

    Args:
        relay: its id.
        key: what the relay is known by next, as in an offer.
        certificate: the relay's next one, PEM.
    """

    relay: str
    key: str
    certificate: str

    def __post_init__(self) -> None:
        check_id(self.relay)
        check_public(self.key)
        _check_certificate(self.certificate)


@dataclass(frozen=True)
class Confirm(Message):
    """Home is in the new tunnel; `key` is what it is known by there."""

    key: str

    def __post_init__(self) -> None:
        check_public(self.key)


@dataclass(frozen=True)
class AgentState(Message):
    """Answer to `GET /state` of the agent.

    Args:
        protocol: version that it speaks.
        software: id of the bundle that runs; empty when it is none.
        paired: whether it belongs to a home.
        clock: the relay's, seconds since 1970.
        recipients: version of the list that it has; 0 for none.
        settings: version of the settings that it has; 0 for none.
        home_epoch: of the home that it serves.
        unlock: digest of the keys with which it helps to unlock home's disk (model/unlock.py); empty for none, and for
            such as are not in force yet.
    """

    protocol: int
    software: str
    paired: bool
    clock: int
    recipients: int = 0
    settings: int = 0
    home_epoch: int = 0
    unlock: str = ""

    def __post_init__(self) -> None:
        for number in (self.clock, self.recipients, self.settings, self.home_epoch):
            _check_number(number)
        given: object = self.unlock
        if not isinstance(given, str) or not set(given) <= set("0123456789abcdefghijklmnopqrstuvwxyz"):
            raise ValueError("unlock: expected a digest")
