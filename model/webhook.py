"""Addresses of web services that are told something."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from model.names import host
from model.problems import Kind, Refusal

_EXPECTED = "an address that begins with `https://`"
_URL = re.compile(r"https://[!-~]{1,2000}")


def webhook(text: str) -> str:
    """Give the address of a web service as it is: what stands behind the host is nobody's business, often a secret.

    Raises:
        Refusal: it is none. The text of it is not in the refusal.
    """
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise _refusal("an address with a host or port that is none") from None
    if not _URL.fullmatch(text) or not parts.hostname or port == 0:
        raise _refusal("another text")
    if parts.username is not None or parts.fragment:
        raise _refusal("an address with a user's name or a `#`")
    try:
        host(parts.hostname)
    except Refusal:
        raise _refusal("an address whose host is none") from None
    return text


def _refusal(found: str) -> Refusal:
    return Refusal(Kind.BAD_WEBHOOK, found, _EXPECTED, "copy the whole address of the web service")
