"""The keys of a tunnel by openvpn(8), as both ends make and know them; nothing but the standard library.

Each end has a certificate of its own making, and is known by its fingerprint. In the messages of pairing that takes the
place of a public WireGuard key.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from model import control_tls, wireguard
from model.control_tls import certificate_of, fingerprint

HOME_NAME, RELAY_NAME = "darkpipe-home", "darkpipe-relay"
"""Common names of the two certificates."""

_FINGERPRINT = re.compile(r"[0-9A-F]{2}(?::[0-9A-F]{2}){31}")
_KEY = re.compile(r"-----BEGIN PRIVATE KEY-----\n(?:[A-Za-z0-9+/=]+\n)+-----END PRIVATE KEY-----\n")


def is_fingerprint(text: str) -> bool:
    """Tell whether this is a certificate's SHA-256 as openvpn(8) writes it, `AB:CD:…`."""
    return bool(_FINGERPRINT.fullmatch(text))


def check_public(text: str) -> str:
    """Give back what an end of the tunnel is known by: a public WireGuard key, or a certificate's fingerprint.

    Raises:
        ValueError: it is neither.
    """
    if is_fingerprint(str(text)):
        return text
    return wireguard.check_key(text)


def certificate_command(name: str) -> Sequence[str]:
    """Give the command that prints a new key and a certificate for it, in PEM and in this order (openssl-req(1)).

    Args:
        name: HOME_NAME or RELAY_NAME; the one is a client's, the other a server's, and none is good for the other.
    """
    purpose = "serverAuth" if name == RELAY_NAME else "clientAuth"
    return control_tls.certificate_command(name, f"extendedKeyUsage=critical,{purpose}")


def parts(pem: str) -> tuple[str, str]:
    """Take apart what `certificate_command` has printed: the private key, and the certificate.

    Raises:
        ValueError: it is something else; the text quotes nothing of it.
    """
    found = _KEY.findall(pem)
    if len(found) != 1:
        raise ValueError(f"found {len(found)} private keys, expected one")
    return str(found[0]), certificate_of(pem)


def public_half(pem: str) -> str:
    """Give what the other end knows such a key by: the fingerprint of its certificate.

    Raises:
        CertificateError: there is not exactly one certificate.
    """
    digits = fingerprint(certificate_of(pem)).upper()
    return ":".join(digits[at : at + 2] for at in range(0, len(digits), 2))
