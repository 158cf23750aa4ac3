"""The self-signed certificate under which the mail server offers TLS until it has one that others trust."""

from __future__ import annotations

import hashlib
import re
import ssl
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from stack.durable import write_atomically

_DAYS = 3650
_RENEW_BEFORE = 30 * 24 * 3600
_COMMON_NAME_LENGTH = 64  # ub-common-name, RFC 5280 appendix A.1
_SHOWN = ("-subject", "-issuer", "-enddate", "-dateopt", "iso_8601", "-ext", "subjectAltName")


class CertificateError(Exception):
    """openssl could not make the certificate; the text has what it said."""


def ensure_certificate(path: Path, names: Sequence[str], days: int = _DAYS) -> bool:
    """Make key and certificate for some host names, unless there are some that fit.

    Both are in one PEM file, key first, so that they can only be replaced together.

    Args:
        names: DNS names in their ASCII form; the first is what mail apps show.
        days: for which a new one is valid.

    Returns:
        Whether a new one was made.

    Raises:
        CertificateError: openssl failed.
    """
    if path.exists() and _fits(path, names):
        return False
    write_atomically(path, _make(names, days), 0o600)
    return True


@dataclass(frozen=True)
class Certificate:
    """What others see of a certificate.

    Args:
        names: the DNS names that it is for.
        expires: when it ends to be valid.
        self_signed: whether nobody else vouches for it.
    """

    names: tuple[str, ...]
    expires: datetime
    self_signed: bool


def digest(pem: str) -> bytes:
    """Give the SHA-256 of the first certificate in a PEM text, which may hold a key as well.

    Raises:
        CertificateError: there is none.
    """
    found = re.search(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", pem, re.DOTALL)
    try:
        return hashlib.sha256(ssl.PEM_cert_to_DER_cert(found[0] if found else "")).digest()
    except ValueError:
        raise CertificateError("a file that should hold a certificate holds none") from None


def read_certificate(path: Path) -> Certificate:
    """Read the certificate in a PEM file.

    Raises:
        CertificateError: there is none.
    """
    shown = _run(["openssl", "x509", "-in", str(path), "-noout", *_SHOWN])
    rows = dict(row.split("=", 1) for row in shown.stdout.splitlines() if "=" in row)
    if shown.returncode != 0:
        raise CertificateError(f"{path} holds no certificate: {shown.stderr.strip()}")
    return Certificate(
        names=tuple(re.findall(r"DNS:([^,\s]+)", shown.stdout)),
        expires=datetime.fromisoformat(rows["notAfter"]),
        self_signed=rows["subject"] == rows["issuer"],
    )


def _fits(path: Path, names: Sequence[str]) -> bool:
    certificate = ("x509", "-in", str(path), "-noout")
    shown = _run(["openssl", *certificate, "-ext", "subjectAltName"])
    if shown.returncode != 0 or set(re.findall(r"DNS:([^,\s]+)", shown.stdout)) != set(names):
        return False
    lasting = _run(["openssl", *certificate, "-checkend", str(_RENEW_BEFORE)])
    theirs = _run(["openssl", *certificate, "-pubkey"])
    ours = _run(["openssl", "pkey", "-in", str(path), "-pubout"])
    return lasting.returncode == ours.returncode == 0 and ours.stdout == theirs.stdout


def _make(names: Sequence[str], days: int) -> bytes:
    extensions = (
        f"subjectAltName={','.join(f'DNS:{name}' for name in names)}",
        # Somebody who trusts it trusts this host, and not whatever else its key might sign.
        "basicConstraints=critical,CA:FALSE",
        "keyUsage=critical,digitalSignature",
        "extendedKeyUsage=serverAuth",
    )
    options = [word for extension in extensions for word in ("-addext", extension)]
    kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc", "-sha256"]
    subject = ["-subj", f"/CN={names[0][:_COMMON_NAME_LENGTH]}", "-days", str(days)]
    done = _run(["openssl", "req", "-x509", *kind, *subject, *options, "-keyout", "-", "-out", "-"])
    # openssl can end with 0 though it has written only one of the two.
    if done.returncode != 0 or "PRIVATE KEY" not in done.stdout or "BEGIN CERTIFICATE" not in done.stdout:
        raise CertificateError(f"openssl cannot make a certificate for {', '.join(names)}: {done.stderr.strip()}")
    return done.stdout.encode()


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    except OSError as error:
        raise CertificateError(f"openssl cannot be run: {error}") from error
