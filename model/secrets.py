"""Which stretches of a site file may hold a password, so that no report ever shows them.

A password may stand where it should (as a hash), where it should not (in plain text), under a misspelt key, or in a
file that is no YAML at all. So may the disk's passphrase, and the address of a web service, which is often as good as a
password. When in doubt, it is hidden.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cache

from model.names import BEHIND_ADDRESS, mail_address
from model.passwords import GENERATE, PROMPT, harmless_key, is_secret, may_be_passphrase
from model.problems import Path, Refusal, Span
from model.site import S3, Alarm, DataDisk, Disk, Relay, Site, UnlockPolicy, User
from model.yaml_faults import SyntaxFault, split_lines
from model.yaml_tree import Entry, Tree, read_tree

_OPEN_USER_KEYS = sorted(set(User.model_fields) - {"password"})
_DISK_WORDS = [*UnlockPolicy, *DataDisk]
_HARMLESS = re.compile(rf"""['"]?({PROMPT}|{GENERATE})['"]?""")

_COMMENT = re.compile(r"(?:^|(?<=\s))#\s*")

_SECRET_KEYS = {"password", "secret_key", "webhook"}
_KNOWN_KEYS = sorted(
    {key for group in (Site, User, Relay, Alarm, S3, Disk) for key in group.model_fields} - _SECRET_KEYS
)

_SECRET_FOLLOWS = re.compile(
    r"""(?:passwor[dt]|passphrase|pass|pasword|pasw|pwd|secret|kennwort|token|hash)['"]?\s*[:=]?\s*""", re.IGNORECASE
)
_ANY_KEY = re.compile(r"""([^\s,{\['":]+)['"]?\s*:\s*""")
_FIRST_WORD = re.compile(r"""[\s\-\[{'"]*(\w+)\s*""")
_OPEN_LINE = re.compile(
    rf"""[\s\-\[{{'"]*(?:(?:{"|".join(_KNOWN_KEYS)})['"]?\s*(?::.*)?|[\w.+-]+@[\w.-]+['"]?,?|[\]}}.,]*|\#.*)"""
)
"""In a text that is no YAML: a line that begins with a key that we know, a lone address, punctuation, a comment."""


def secret_spans(text: str) -> list[Span]:
    """Find all that must be hidden when lines of a site file are shown; sorted."""
    lines = split_lines(text)
    try:
        tree = read_tree(text)
    except SyntaxFault:
        spans = list(_in_no_yaml(lines))
    else:
        spans = list(_in_tree(tree, lines))
        beside = [*spans, *(entry.value for entry in tree.entries if is_secret(entry.path))]
        spans += _in_comments(lines, {line for span in beside for line in range(span.line, span.end_line + 1)})
    return sorted(spans)


def _in_tree(tree: Tree, lines: list[str]) -> Iterator[Span]:
    for entry in tree.entries:
        key = str(entry.path[-1]) if entry.path else ""
        if entry.key and (not harmless_key(key) or is_secret(entry.path[:-1])):
            yield entry.key
        if entry.text is not None and _may_be_secret(entry.path, entry.text) and not _is_harmless(entry, lines):
            yield entry.value


def _may_be_secret(path: Path, text: str) -> bool:
    if is_secret(path):
        return True
    group, *keys = [part for part in path if isinstance(part, str)] or [""]
    match group:
        case "users":
            return _may_be_secret_of_user(keys, text)
        case "disk":
            return _is_strange(keys, Disk.model_fields) or may_be_passphrase(text, _DISK_WORDS)
        case "relays":
            return ("alarm" in keys and "://" in text) or ("s3" in keys and "@" in text)
        case _:
            return bool(keys) and _is_strange([group], Site.model_fields)


def _may_be_secret_of_user(keys: Sequence[str], text: str) -> bool:
    if keys:
        # `- alice@example.com: the password` is a mistake that suggests itself.
        return _is_strange(keys, _OPEN_USER_KEYS) or bool(BEHIND_ADDRESS.search(text))
    try:
        mail_address(text)
    except Refusal:
        return True
    return False


def _is_strange(keys: Sequence[str], known: Iterable[str]) -> bool:
    """Tell whether the first of some keys is none of those that are known, not even misspelt."""
    return bool(keys) and not difflib.get_close_matches(keys[0].lower(), list(known), n=1, cutoff=0.7)


def _is_harmless(entry: Entry, lines: list[str]) -> bool:
    """Tell whether what is really written there, anchors and tags included, is no more than a known word."""
    span = entry.value
    if span.line != span.end_line:
        return False
    written = lines[span.line - 1][span.column - 1 : span.end_column - 1]
    return not written or bool(_HARMLESS.fullmatch(written))


def _in_comments(lines: list[str], beside: set[int]) -> Iterator[Span]:
    """Hide a comment beside a secret, and what a comment of its own line says after a word like `password`."""
    for number, line in enumerate(lines, start=1):
        comment = _COMMENT.search(line)
        if comment and number in beside:
            yield _rest_of_line(number, comment.end(), line)
        elif comment and (word := _SECRET_FOLLOWS.search(line, comment.start())):
            yield from _unless_harmless(number, word.end(), line)


def _in_no_yaml(lines: list[str]) -> Iterator[Span]:
    """Hide all but what is known to be harmless: in such a text a password may have lost its key, or gone astray."""
    for number, line in enumerate(lines, start=1):
        starts = [_after(key) for key in _ANY_KEY.finditer(line) if key[1] not in _KNOWN_KEYS]
        starts += [word.end() for word in _SECRET_FOLLOWS.finditer(line)]
        if not starts and not _OPEN_LINE.fullmatch(line):
            word = _FIRST_WORD.match(line)
            starts.append(_after(word) if word else 0)
        if starts:
            yield from _unless_harmless(number, min(starts), line)


def _after(word: re.Match[str]) -> int:
    """Give where the unknown begins: after a word that is nearly a key, or at that word."""
    return word.end() if _is_nearly_a_key(word[1].lower()) else word.start(1)


@cache
def _is_nearly_a_key(word: str) -> bool:
    return bool(difflib.get_close_matches(word, [*_KNOWN_KEYS, "password"], cutoff=0.7))


def _unless_harmless(number: int, start: int, line: str) -> Iterator[Span]:
    rest = line[start:].strip(" ,}]")
    if rest and not _HARMLESS.fullmatch(rest):
        yield _rest_of_line(number, start, line)


def _rest_of_line(number: int, start: int, line: str) -> Span:
    return Span(number, start + 1, number, len(line) + 1)
