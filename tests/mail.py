"""Mail clients for the tests: swaks to send, IMAP over TLS to read."""

from __future__ import annotations

import email.utils
import imaplib
import itertools
import re
import ssl
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

_PATIENCE = 60.0

_TRACE = re.compile(
    rb"\A(?:(?:Return-Path|Delivered-To|Received|Authentication-Results|X-Spamd-Result|DKIM-Signature):"
    rb"[^\n]*\n(?:[ \t][^\n]*\n)*)*",
    re.IGNORECASE,
)
"""The fields that the servers put on top of a message: trace (RFC 5321 §4.4), verdict, signatures."""


def swaks(
    port: int,
    sender: str,
    recipient: str,
    message: Path | None = None,
    host: str = "127.0.0.1",
    options: Sequence[str] = (),
) -> subprocess.CompletedProcess[str]:
    """Send by the real SMTP client; its exit status is 0 when the message was accepted (swaks(1)).

    Args:
        message: a file with the whole message, line ends as on Unix; swaks makes one up without it.
        options: further options, for TLS and logging in for instance.
    """
    arguments = ["swaks", "--server", host, "--port", str(port), "--from", sender, "--to", recipient, *options]
    if message is not None:
        arguments += ["--data", f"@{message}", "--suppress-data"]
    return subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=120)


def mailbox(port: int, user: str, password: str, host: str = "127.0.0.1") -> imaplib.IMAP4_SSL:
    """Log in over IMAPS."""
    client = imaplib.IMAP4_SSL(host, port, ssl_context=any_certificate(), timeout=60)
    try:
        client.login(user, password)
    except (client.error, OSError):
        client.shutdown()
        raise
    return client


def any_certificate() -> ssl.SSLContext:
    """TLS that takes every certificate: the device's first one is its own."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def old_tls() -> ssl.SSLContext:
    """TLS of before 2018 (RFC 8996), which nobody should speak any more."""
    context = any_certificate()
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    return context


def arrived_below_trace(received: bytes, sent: bytes) -> bool:
    """Tell whether a message is, octet by octet, what was sent, with nothing but the servers' own fields on top."""
    added = received.removesuffix(sent)
    return received.endswith(sent) and _TRACE.fullmatch(added.replace(b"\r\n", b"\n")) is not None


def without_trace(message: bytes) -> bytes:
    """Take off the fields that servers put on top: all below must be as it was sent."""
    return _TRACE.sub(b"", message.replace(b"\r\n", b"\n")).replace(b"\n", b"\r\n")


def letter(subject: str, sender: str, recipient: str, body: str = "hello") -> str:
    """Write a message as people send it: one that lacks what every mail app adds is taken for junk."""
    date, identifier = email.utils.formatdate(), email.utils.make_msgid(domain="example.net")
    fields = {"From": sender, "To": recipient, "Subject": subject, "Date": date, "Message-ID": identifier}
    return "".join(f"{name}: {value}\r\n" for name, value in fields.items()) + f"\r\n{body}\r\n"


ARRIVED = ("INBOX", "Junk")
"""Where new mail is filed; what a test sends may well look like junk."""


def fetch(client: imaplib.IMAP4_SSL, subject: str, *folders: str) -> bytes:
    """Wait for the message with a subject and give its bytes.

    Args:
        folders: where it may be; without any, wherever new mail is filed.

    Raises:
        AssertionError: it did not come.
    """
    return fetch_by(client, "Subject", subject, *folders)


def fetch_by(client: imaplib.IMAP4_SSL, field: str, text: str, *folders: str) -> bytes:
    """Wait for the message with a text in a header field and give its bytes.

    Args:
        folders: as of `fetch`.

    Raises:
        AssertionError: it did not come.
    """
    deadline = time.monotonic() + _PATIENCE
    places = itertools.cycle(folders or ARRIVED)
    while time.monotonic() < deadline:
        client.select(next(places), readonly=True)
        _, found = client.search(None, "HEADER", field, f'"{text}"')
        numbers = found[0].split()
        if numbers:
            _, parts = client.fetch(numbers[-1].decode(), "(BODY.PEEK[])")
            part = parts[0]
            assert isinstance(part, tuple)
            return bytes(part[1])
        time.sleep(0.25)
    raise AssertionError(f"no message with {field} {text!r} came")
