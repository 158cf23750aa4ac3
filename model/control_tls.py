"""The TLS of the control plane, the same on both ends: version 1.3, and each side knows the other's very certificate.

Nobody vouches for these certificates. They are exchanged at pairing, made for this one relation, and compared octet for
octet; what is written in them (names, dates) means nothing, so that a clock that is wrong shuts nobody out.
"""

from __future__ import annotations

import hashlib
import re
import ssl
from collections.abc import Sequence
from pathlib import Path

_LARGEST = 4096
"""Octets of a certificate in PEM; ours have some 700."""

_MOST = 2
"""Certificates of the other side at one time: two while it changes from one to the next."""

_NO_CHECK_TIME = 0x200000
"""X509_V_FLAG_NO_CHECK_TIME (X509_VERIFY_PARAM_set_flags(3)), for which Python has no name."""

_PEM = re.compile(r"-----BEGIN CERTIFICATE-----\s[A-Za-z0-9+/=\s]+-----END CERTIFICATE-----\n?")


class CertificateError(Exception):
    """Something is not the certificate that was expected; the text says what was found."""


def certificate_command(name: str, *extensions: str) -> Sequence[str]:
    """Give the command that prints a new key and a certificate for it, in PEM and in this order (openssl-req(1)).

    Args:
        name: what people see of it, such as `darkpipe-home`.
        extensions: what it says besides (x509v3_config(5)).
    """
    kind = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc", "-sha256", "-days", "36500")
    # It vouches for nobody else: without this, openssl makes an authority.
    all_of_them = ("basicConstraints=critical,CA:FALSE", "keyUsage=critical,digitalSignature", *extensions)
    added = [word for text in all_of_them for word in ("-addext", text)]
    return ("openssl", "req", "-x509", *kind, "-subj", f"/CN={name}", *added, "-keyout", "-", "-out", "-")


def certificate_of(pem: str) -> str:
    """Take the certificate out of what `certificate_command` has printed: what the other side may know.

    Raises:
        CertificateError: there is not exactly one.
    """
    found = _PEM.findall(pem)
    if len(found) != 1:
        raise CertificateError(f"found {len(found)} certificates, expected one")
    check_certificates(found[0])
    return str(found[0])


def check_certificates(pem: str) -> tuple[bytes, ...]:
    """Read the certificates of the other side, one or two, and nothing besides.

    Returns:
        Each in DER.

    Raises:
        CertificateError: it is something else.
    """
    found = _PEM.findall(pem)
    if not 1 <= len(found) <= _MOST or len(pem) > _MOST * _LARGEST or _PEM.sub("", pem).strip():
        raise CertificateError(f"found {len(found)} certificates in {len(pem)} characters, expected one or two")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata="".join(found))
        return tuple(ssl.PEM_cert_to_DER_cert(one) for one in found)
    except (ValueError, ssl.SSLError):
        raise CertificateError("found a certificate that cannot be read") from None


def fingerprint(pem: str) -> str:
    """Give the SHA-256 of a certificate, in hexadecimal digits.

    Raises:
        CertificateError: it is not one.
    """
    return hashlib.sha256(check_certificates(pem)[0]).hexdigest()


class Pins:
    """Own key and certificate, and the certificates that the other side may show.

    Args:
        own: file with the key and, behind it, the certificate.
        others: PEM of one or two certificates.

    Raises:
        CertificateError: a file or a certificate is not what it should be.
    """

    def __init__(self, own: Path, others: str, *, server: bool) -> None:
        self._accepted = frozenset(check_certificates(others))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.check_hostname = False
        context.verify_mode = ssl.CERT_REQUIRED
        context.verify_flags |= _NO_CHECK_TIME
        if server:
            # A session that is taken up again shows no certificate, also when it is accepted no longer.
            context.num_tickets = 0
        try:
            context.load_cert_chain(own)
            context.load_verify_locations(cadata=others)
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            raise CertificateError(f"{own}: no key with its certificate ({type(error).__name__})") from None
        self.context = context

    def knows(self, connection: ssl.SSLSocket) -> bool:
        """Tell whether the other side has shown one of its certificates; the handshake has proven that it has the key.

        OpenSSL takes a certificate for a trust anchor, and whatever leads to one for good. Here nothing leads anywhere.
        """
        return connection.getpeercert(binary_form=True) in self._accepted
