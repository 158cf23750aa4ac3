"""What the relay looks at in a message's header while it passes: Postfix's own Received field, and the Message-ID."""

from __future__ import annotations

import re
from collections.abc import Mapping

END_OF_HEADER = b"\r\n\r\n"

_TLS = re.compile(
    rb"Received: (?:[^\r\n]|\r\n[ \t])*?\(using (?P<protocol>[A-Za-z0-9.]+) with cipher (?P<cipher>[A-Za-z0-9_-]+)",
    re.DOTALL,
)
_MESSAGE_ID = re.compile(rb"(?:^|\r\n)Message-ID:[ \t]*(?:\r\n[ \t]+)?(<[!-~]{1,500}>)[ \t]*\r\n", re.IGNORECASE)


def tls_of(message: bytes) -> Mapping[str, str]:
    """Say how the client's connection was encrypted, by the field that Postfix puts on top (smtpd_tls_received_header).

    Args:
        message: its beginning.

    Returns:
        `protocol` and `cipher`; empty for none.
    """
    match = _TLS.match(message)
    return {name: value.decode() for name, value in match.groupdict().items()} if match else {}


def message_id_of(message: bytes) -> str:
    """Give the Message-ID (RFC 5322 §3.6.4); empty when there is none as it should be.

    Args:
        message: its beginning; what stands behind the header is not looked at.
    """
    header, _, _ = message.partition(END_OF_HEADER)
    match = _MESSAGE_ID.search(header + b"\r\n")
    return match[1].decode("ascii") if match else ""
