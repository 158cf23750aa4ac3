"""A call to a mail server that sends no mail: greeting, EHLO, perhaps TLS, QUIT.

`darkpipe-run home.smtp_call ADDRESS PORT NAME` makes one and prints it as JSON: so can a user whose connections take
another way, Postfix's through the tunnel.
"""

from __future__ import annotations

import hashlib
import json
import re
import smtplib
import ssl
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from ipaddress import IPv4Address
from typing import Any

PATIENCE = 20.0
"""Seconds for each answer: large providers let strangers wait some seconds for their greeting."""

_RUN = ("/usr/libexec/darkpipe-run", "home.smtp_call")

_ADDRESS = re.compile(r"\[((?:\d{1,3}\.){3}\d{1,3})\]")


class CallError(Exception):
    """There was no talk; the text says how far it came."""


@dataclass(frozen=True)
class Call:
    """What a server said.

    Args:
        banner: the first line, without its code.
        seen_as: the address that the server says it is called from, as many do in their answer to EHLO.
        certificate: SHA-256 of the one that it showed, in hexadecimal digits; None without TLS.
    """

    banner: str
    seen_as: str | None = None
    certificate: str | None = None


class _Client(smtplib.SMTP):
    """Keeps the greeting, which smtplib drops."""

    greeting = b""

    def connect(self, host: str = "", port: int = 0, source_address: Any = None) -> tuple[int, bytes]:
        code, self.greeting = super().connect(host, port, source_address)
        return code, self.greeting


class _TlsClient(_Client, smtplib.SMTP_SSL):
    """The same with TLS from the first octet."""


def call(address: str, port: int, name: str, *, starttls: bool = False, patience: float = PATIENCE) -> Call:
    """Call a mail server; TLS comes first on port 465, and elsewhere with STARTTLS if that is wanted.

    Args:
        name: to introduce ourselves by.

    Raises:
        CallError: it does not answer like a mail server.
    """
    try:
        if port == smtplib.SMTP_SSL_PORT:
            client: _Client = _TlsClient(address, port, name, timeout=patience, context=_unproven())
        else:
            client = _Client(address, port, name, timeout=patience)
        # At its end the connection is closed without ceremony: whether the server takes leave makes no difference.
        with closing(client):
            _, answer = client.ehlo()
            if starttls:
                client.starttls(context=_unproven())
            greeting = client.greeting.decode(errors="replace")
            return Call(greeting, _seen_as(answer.decode(errors="replace")), _certificate(client))
    except smtplib.SMTPResponseException as error:
        said = error.smtp_error if isinstance(error.smtp_error, str) else error.smtp_error.decode(errors="replace")
        raise CallError(f"it says {error.smtp_code} {said}") from None
    except (OSError, smtplib.SMTPException, EOFError) as error:
        # smtplib tells of a server that stays silent as of one that has hung up.
        if isinstance(error, TimeoutError) or isinstance(error.__context__, TimeoutError):
            raise CallError(f"no answer within {patience:.0f} s") from None
        raise CallError(str(error) or type(error).__name__) from None


def call_as(user: str, address: str, port: int, name: str) -> Call:
    """Call a mail server as another user of this machine.

    Raises:
        CallError: as above, or nobody may act as that user.
    """
    command = [*_RUN, address, str(port), name]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=3 * PATIENCE,
            user=user,
            group=user,
            extra_groups=(),
        )
    except (OSError, subprocess.SubprocessError, LookupError) as error:
        raise CallError(str(error)) from None
    if done.returncode != 0:
        raise CallError(done.stderr.strip() or f"{command[0]} ended with status {done.returncode}")
    return Call(**json.loads(done.stdout))


def _unproven() -> ssl.SSLContext:
    # Whose certificate it is, the caller looks at; no authority vouches for ours.
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _certificate(client: smtplib.SMTP) -> str | None:
    if not isinstance(client.sock, ssl.SSLSocket):
        return None
    shown = client.sock.getpeercert(binary_form=True)
    return hashlib.sha256(shown).hexdigest() if shown else None


def _seen_as(text: str) -> str | None:
    for found in _ADDRESS.findall(text.partition("\n")[0]):
        try:
            return str(IPv4Address(found))
        except ValueError:
            continue
    return None


def main(arguments: Sequence[str]) -> None:
    """Make the call that the command line names."""
    address, port, name = arguments
    try:
        print(json.dumps(asdict(call(address, int(port), name))))
    except CallError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main(sys.argv[1:])
