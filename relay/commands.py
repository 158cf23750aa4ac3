"""SMTP's commands and their arguments, from the octets of one line."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

_VERB = re.compile(rb"([A-Za-z]+)(?: +(.*?))? *", re.DOTALL)
_PARAMETER = re.compile(r"([A-Za-z0-9][A-Za-z0-9-]*)(?:=([^\x00-\x20\x7f=][^\x00-\x20\x7f]*))?")
_XTEXT = re.compile(r"(?:[!-*,-<>-~]|\+[0-9A-F]{2})*")
_UNIT = re.compile(r"(?:\+[0-9A-F]{2})+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_UNKNOWN = frozenset({"[UNAVAILABLE]", "[TEMPUNAVAIL]"})
_ROUTE = re.compile(r"@[^:,]*(?:,@[^:,]*)*:")

FORWARDED = ("NAME", "ADDR", "PORT", "PROTO", "HELO", "IDENT", "SOURCE")
"""Attributes of a client that XFORWARD may tell."""

LONGEST_ADDRESS = 254 + 64
"""Octets of a path: 256 with its brackets (RFC 5321 §4.5.3.1.3), and some more, since Postfix is no stricter."""


class SyntaxFault(Exception):
    """A command's argument cannot be understood; the text says what was expected."""


@dataclass(frozen=True)
class Command:
    """A command line.

    Args:
        verb: in capitals.
        argument: without blanks around it.
    """

    verb: str
    argument: bytes

    @classmethod
    def parse(cls, line: bytes) -> Command:
        """Take a line apart.

        Raises:
            SyntaxFault: it begins with no word, or has a CR, an LF or a NUL in it.
        """
        match = _VERB.fullmatch(line)
        if not match or any(octet in line for octet in b"\r\n\0"):
            raise SyntaxFault("a command")
        return cls(match[1].decode().upper(), match[2] or b"")


@dataclass(frozen=True)
class Path:
    """The argument of MAIL or RCPT.

    Args:
        address: empty for the null sender.
        parameters: by their names in capitals; the value is None where there is none.
    """

    address: str
    parameters: Mapping[str, str | None]

    @classmethod
    def parse(cls, argument: bytes, keyword: str) -> Path:
        """Read `FROM:<path>` or `TO:<path>` and the parameters behind it (RFC 5321 §4.1.1.2, RFC 6531 §3.3).

        Raises:
            SyntaxFault: it is something else.
        """
        try:
            text = argument.decode("utf-8")
        except UnicodeDecodeError:
            raise SyntaxFault("an address in UTF-8") from None
        head, colon, rest = text.partition(":")
        rest = rest.lstrip(" ")
        if head.rstrip(" ").upper() != keyword or not colon or not rest.startswith("<"):
            raise SyntaxFault(f"{keyword}:<address>")
        end = _end_of_path(rest)
        # Routes of mail are read over (RFC 5321 §4.1.1.3).
        address = _ROUTE.sub("", rest[1:end], count=1) if rest.startswith("<@") else rest[1:end]
        if _CONTROL.search(address) or len(address.encode()) > LONGEST_ADDRESS:
            raise SyntaxFault("a shorter address, without control characters")
        tail = rest[end + 1 :]
        if tail and not tail.startswith(" "):
            raise SyntaxFault("a blank behind >")
        parameters: dict[str, str | None] = {}
        for word in tail.split():
            match = _PARAMETER.fullmatch(word)
            if not match or match[1].upper() in parameters:
                raise SyntaxFault("parameters such as SIZE=1000, each once")
            parameters[match[1].upper()] = match[2]
        return cls(address, MappingProxyType(parameters))


def _end_of_path(text: str) -> int:
    """Find the `>` that is in no quoted string."""
    quoted = escaped = False
    for index, character in enumerate(text):
        if escaped:
            escaped = False
        elif character == "\\":
            escaped = True
        elif character == '"':
            quoted = not quoted
        elif character == ">" and not quoted:
            return index
    raise SyntaxFault("an address that ends with >")


def parse_forward(argument: bytes) -> Mapping[str, str | None]:
    """Read what XFORWARD says of the client (Postfix's XFORWARD_README).

    Returns:
        Values by names in capitals; None for what is not known, `[UNAVAILABLE]` and `[TEMPUNAVAIL]`, and for what is no
        text: a client may greet with octets of any kind, and its mail is no worse for that.

    Raises:
        SyntaxFault: it is something else, or an attribute that was not offered.
    """
    found: dict[str, str | None] = {}
    for word in argument.decode("ascii", "replace").split():
        name, equals, value = word.partition("=")
        if not equals or name.upper() not in FORWARDED:
            raise SyntaxFault("attributes such as ADDR=192.0.2.1")
        if not _XTEXT.fullmatch(value):
            raise SyntaxFault("xtext")
        try:
            text = decode_xtext(value)
        except SyntaxFault:
            text = ""
        found[name.upper()] = text if text and text not in _UNKNOWN else None
    return MappingProxyType(found)


def decode_xtext(text: str) -> str:
    """Decode xtext (RFC 3461 §4): `+2B` for `+`.

    Raises:
        SyntaxFault: it is none, or holds a control character or no UTF-8.
    """
    if not _XTEXT.fullmatch(text):
        raise SyntaxFault("xtext")
    try:
        decoded = _UNIT.sub(lambda match: bytes.fromhex(match[0].replace("+", "")).decode("utf-8"), text)
    except UnicodeDecodeError:
        raise SyntaxFault("xtext of UTF-8") from None
    if _CONTROL.search(decoded):
        raise SyntaxFault("xtext without control characters")
    return decoded
