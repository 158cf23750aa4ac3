"""Certificates for tests, of which it does not matter which they are: made once, since openssl takes its time."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from functools import cache

from model.control_tls import certificate_command, certificate_of


@cache
def some_certificates() -> Sequence[tuple[str, str]]:
    """Give a few: key and certificate, and the certificate alone."""
    made = [
        subprocess.run(certificate_command(f"test-{number}"), capture_output=True, text=True, check=True).stdout
        for number in range(4)
    ]
    return [(pem, certificate_of(pem)) for pem in made]
