"""The owner's own code for the device's page: how it stands in a file, and what would do."""

from __future__ import annotations

CODE_NAME = "darkpipe-code.txt"
"""The file's name on the boot partition."""

LARGEST = 1024
"""Octets of the file that are looked at."""

_SHORTEST, _LONGEST = 12, 64
_FEWEST = 5
"""Different characters: the same one again and again is guessed first."""


class CodeError(Exception):
    """The file holds no code that would do; the text says why, and what to do."""


def bare_code(text: str) -> str:
    """Give a code as it is compared: its letters and digits, since all else only makes it easier to read."""
    return "".join(character for character in text.lower() if character.isascii() and character.isalnum())


def parse_code(content: bytes, name: str) -> str:
    """Read a code, in the form of `bare_code`.

    Args:
        content: of the file, whatever its name.
        name: the file's, for the message.

    Raises:
        CodeError: it would not do.
    """
    try:
        # An editor on Windows may have put a mark in front (RFC 3629 §6).
        text = content.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        raise CodeError(f"{name} is no text in UTF-8: save it with that encoding") from None
    code = bare_code(text)
    if any(character not in " -" and not bare_code(character) for character in text):
        raise CodeError(f"{name} holds other characters than letters A to Z, digits, spaces and dashes: one line")
    if not _SHORTEST <= len(code) <= _LONGEST:
        found = f"{len(code)} letters and digits"
        raise CodeError(f"{name} holds {found}: write {_SHORTEST} or more, and at most {_LONGEST}")
    if len(set(code)) < _FEWEST:
        raise CodeError(f"{name} holds the same few characters again and again: write a code that nobody guesses")
    return code
