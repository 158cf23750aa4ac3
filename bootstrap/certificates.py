"""Certificates that are known by their fingerprint: keys of P-256, signed by themselves."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_FROM, _UNTIL = datetime(2000, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
"""No good expiration date (RFC 5280 §4.1.2.5): who knows the very certificate asks no clock."""


@dataclass(frozen=True)
class Certificate:
    """A certificate with its key, both PEM."""

    private_key: str
    certificate: str

    def __repr__(self) -> str:
        return "Certificate(…)"


def make_certificate(name: str, *, server: bool) -> Certificate:
    """Make a key and a certificate for one purpose: to be a TLS server, or a client.

    Args:
        name: its common name.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    purpose = ExtendedKeyUsageOID.SERVER_AUTH if server else ExtendedKeyUsageOID.CLIENT_AUTH
    usage = {
        "content_commitment": False,
        "key_encipherment": False,
        "data_encipherment": False,
        "key_agreement": False,
        "key_cert_sign": False,
        "crl_sign": False,
        "encipher_only": False,
        "decipher_only": False,
    }
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_FROM)
        .not_valid_after(_UNTIL)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(digital_signature=True, **usage), critical=True)
        .add_extension(x509.ExtendedKeyUsage([purpose]), critical=True)
        .sign(key, hashes.SHA256())
    )
    form = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    private = key.private_bytes(serialization.Encoding.PEM, *form)
    return Certificate(private.decode(), made.public_bytes(serialization.Encoding.PEM).decode())


def key_of(certificate: str, private_key: str) -> bool:
    """Tell whether a certificate is one for a key.

    Raises:
        ValueError: one of them is damaged.
    """
    key = serialization.load_pem_private_key(private_key.encode(), None)
    return x509.load_pem_x509_certificate(certificate.encode()).public_key() == key.public_key()
