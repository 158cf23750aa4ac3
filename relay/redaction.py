"""Postfix's log lines without the people in them: neither addresses, nor names, nor anything that a client has said.

Even a log in memory is copied (a snapshot of a VPS has its memory in it). What is left tells what was done, how often,
and with which status.
"""

from __future__ import annotations

import ipaddress
import re

_HEAD = re.compile(
    r"(?P<head>(?:<\d{1,3}>)?(?:[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d )?(?:[^\s:\[]+(?:\[\d+\])?: )?)(?P<text>.*)",
    re.DOTALL,
)
_CLIENT = re.compile(r"\bfrom\b.*|;.*", re.DOTALL)
"""Behind `from`, Postfix names a client, and then what it has said; behind a semicolon, the envelope."""

_CODE = re.compile(r": ([245]\d\d(?: [245]\.\d{1,3}\.\d{1,3})?) ")
_COUNTS = re.compile(
    r"(?<= )(?:ehlo|helo|starttls|auth|mail|rcpt|data|bdat|rset|noop|vrfy|quit|unknown|commands)=\d+(?:/\d+)?(?= |$)"
)

_BRACKETED = re.compile(r"<(?:.*>|.*)", re.DOTALL)
"""Up to the last one: a quoted local part may have one, too."""

_NAMES = re.compile(r'(?<=: )(valid_\w+: ).*|(\b(?:domain|host|hostname) )("[^"]*"?|[^\s"]\S*)', re.DOTALL)
"""Postfix says what is wrong with a name, and then the name."""

_ADDRESS = re.compile(r"[^\s<>,;:=]*@[^\s<>,;]*")
_IPV4 = re.compile(r"(?<![\w.])(?!127\.0\.0\.1(?![\w.]))\d{1,3}(?:\.\d{1,3}){3}(?![\w.])")
_IPV6 = re.compile(r"(?<![\w.])[0-9A-Fa-f]*:[0-9A-Fa-f:.]+")
"""What may be one; a time may, too."""

_COLONS = 2
"""Of the shortest address in IPv6."""

_TIME = re.compile(r":?\d\d:\d\d:\d\d:?")

HIDDEN = "…"


def redact(line: str) -> str:
    """Take out of a line of Postfix's log whatever may lead to a person.

    Args:
        line: as syslog gets it, with or without its head (RFC 3164 §4.1).
    """
    match = _HEAD.fullmatch(line)
    assert match, "everything has some head, if only an empty one"
    text = match["text"]
    kept = ""
    if client := _CLIENT.search(text):
        kept = _of_client(text[: client.start()], client[0])
        text = text[: client.start()]
    text = _NAMES.sub(lambda match: (match[1] or match[2]) + HIDDEN, text)
    text = _IPV6.sub(_hide_if_address, text)
    for pattern in (_BRACKETED, _ADDRESS, _IPV4):
        text = pattern.sub(HIDDEN, text)
    return match["head"] + text + kept


def _hide_if_address(match: re.Match[str]) -> str:
    text = match[0]
    if text == "::1" or _TIME.fullmatch(text):
        return text
    # What was said to be an address may be none. Colons and dots behind an address are no part of it.
    may_be = text.count(":") >= _COLONS and "." not in text
    return HIDDEN if may_be or any(map(_is_ipv6, (text, text.rstrip(":."), text.strip(":")))) else text


def _is_ipv6(text: str) -> bool:
    try:
        return ipaddress.ip_address(text).version == 6
    except ValueError:
        return False


def _of_client(before: str, said: str) -> str:
    """Give what may be kept of a client's name and what stands behind it."""
    if before.endswith("disconnect "):
        return " ".join(("from", HIDDEN, *_COUNTS.findall(said)))
    # Only the first one, which is the server's own: a client may have said something that looks like another.
    code = _CODE.search(said)
    return (f"from {HIDDEN}" if said.startswith("from") else "") + (f": {code[1]}" if code else "")
