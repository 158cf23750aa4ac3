"""What may stand as a password in a `site.yaml`: a wish or a hash, never the password itself."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

from model.problems import Kind, Path, Refusal

PROMPT = "prompt"
"""The builder asks for the password and writes its hash into the seed."""

GENERATE = "generate"
"""The device makes a password and shows it once on its console."""

HASH_PATTERN = (
    r"\$argon2id\$v=19\$m=([0-9]{1,10}),t=([0-9]{1,10}),p=([0-9]{1,10})\$[A-Za-z0-9+/]{11,86}\$[A-Za-z0-9+/]{22,86}"
)
"""A PHC string of argon2id, version 1.3 (RFC 9106); salt of 8 bytes or more, hash of 16 or more, without padding."""

SECRET_WORD = r"[\w-]*(?:pass|pasw|pwd|secret|kennwort|token|hash)[\w-]*"
"""A word that announces a password; to be matched without regard to case."""

SHORTEST_PASSPHRASE = 12
"""Characters that the passphrase of an encrypted disk has at least."""

_LARGEST_MEMORY = 128 * 1024
"""KiB. The device checks a hash at each login, beside all else, in a Dovecot process that may have 256 MiB."""

_MOST_PASSES = 64
_MOST_LANES = 64

_EXPECTED = "`prompt`, `generate` or an argon2id hash (`$argon2id$v=19$m=…,t=…,p=…$…$…`)"
_REMEDY = (
    "write `prompt` to be asked while the image is built, or `generate` to have the device make one and show it once"
)


def password_setting(text: str) -> str:
    """Give the setting as it is.

    Raises:
        Refusal: it is a password in plain text, or a hash that the device cannot check. The text of it is not in the
            refusal.
    """
    if text in (PROMPT, GENERATE):
        return text
    parameters = re.fullmatch(HASH_PATTERN, text)
    if parameters:
        return _affordable(text, *(int(number) for number in parameters.groups()))
    if text.startswith("$argon2id$"):
        raise _refusal("an argon2id hash that is damaged or of another version", "copy the whole hash, in quotes")
    if re.match(r"\$[0-9a-z]+\$|\{[0-9A-Za-z.-]+\}", text):
        raise _refusal("a hash of another kind than argon2id", _REMEDY)
    raise no_password_setting("a password in plain text" if text else "an empty password")


def no_password_setting(found: str) -> Refusal:
    """Refuse what is not even the right type; `found` must not quote it."""
    return _refusal(found, f"{_REMEDY}; keep passwords out of this file")


def is_secret(path: Path) -> bool:
    """Tell whether a value must not be quoted."""
    return any(isinstance(part, str) and secret_word(part) for part in path)


def secret_word(key: str) -> bool:
    """Tell whether a key, perhaps misspelt, announces a password."""
    found = re.search(SECRET_WORD, key, re.IGNORECASE)
    return bool(found or difflib.get_close_matches(key.lower(), ["password"], cutoff=0.7))


def harmless_key(key: str) -> bool:
    """Tell whether a key may be quoted: where its `:` was forgotten, it holds a password itself."""
    return not secret_word(key) or bool(re.fullmatch(r"[A-Za-z_]{1,20}", key))


def may_be_passphrase(text: str, words: Sequence[str]) -> bool:
    """Tell whether somebody may have written a passphrase where one of some words belongs."""
    return len(text) >= SHORTEST_PASSPHRASE and not difflib.get_close_matches(text.lower(), words, n=1, cutoff=0.7)


def _affordable(text: str, memory: int, passes: int, lanes: int) -> str:
    # RFC 9106 §3.1: at least one pass and one lane, and 8 KiB for each lane.
    if passes < 1 or lanes < 1 or memory < 8 * lanes:
        raise _refusal("an argon2id hash with costs that cannot be", "copy the whole hash, in quotes")
    if memory > _LARGEST_MEMORY or passes > _MOST_PASSES or lanes > _MOST_LANES:
        raise _refusal(
            f"an argon2id hash with m={memory}, t={passes}, p={lanes}, too dear for a small device",
            f"make it anew with m ≤ {_LARGEST_MEMORY}, t ≤ {_MOST_PASSES}, p ≤ {_MOST_LANES}, "
            "for instance m=65536, t=3, p=4",
        )
    return text


def _refusal(found: str, remedy: str) -> Refusal:
    return Refusal(Kind.BAD_PASSWORD, found, _EXPECTED, remedy)
