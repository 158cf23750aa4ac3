"""The page's certificate: the device vouches for itself, and tells the fingerprint on its console."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

from stack.certificate import CertificateError, digest, ensure_certificate

PATH = Path("page/page.pem")
"""On `state`: it is needed while data is locked."""

_DAYS = 820
"""macOS since 10.15 refuses one of more than 825 days (Apple's support document HT210176), and Chrome there gives its
user no way on (issue 478 of telekom-security/tpotce, issue 96 of socketry/falcon)."""


def ensure_page_certificate(state: Path, hostname: str | None = None) -> str:
    """Make key and certificate, unless they are there and have the device's names.

    Args:
        state: folder where `state` is mounted.
        hostname: the device's; None for the kernel's, which darkpipe-settings.service has set.

    Returns:
        The certificate's SHA-256 fingerprint, as browsers show it.

    Raises:
        stack.certificate.CertificateError: openssl failed.
        OSError: it cannot be kept.
    """
    path = state / PATH
    path.parent.mkdir(mode=0o700, exist_ok=True)
    ensure_certificate(path, page_names(hostname or socket.gethostname()), _DAYS)
    return fingerprint(path.read_text(encoding="ascii"))


def page_names(hostname: str) -> tuple[str, str]:
    """Give the names that the page has in the home's network: by multicast DNS (RFC 6762), and what a router gives."""
    return f"{hostname}.local", hostname


def fingerprint(pem: str) -> str:
    """Give the SHA-256 fingerprint of the certificate in a PEM file: pairs of hexadecimal digits between colons.

    Raises:
        stack.certificate.CertificateError: it holds none.
    """
    return digest(pem).hex(":").upper()


def main(state: str) -> int:
    """Make it, for darkpipe-page-certificate.service; exit status 1 when that fails."""
    try:
        ensure_page_certificate(Path(state))
    except (CertificateError, OSError) as error:
        print(error, flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
