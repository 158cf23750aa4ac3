"""What can be wrong with a site, in the three parts that every error text has: found, expected, what to do."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

Path = tuple[str | int, ...]
"""Keys and list positions (from 0) that lead to a value, such as `("users", 0, "address")`."""

_LONGEST_QUOTE = 60


class Kind(StrEnum):
    """The kinds of problems; stable, so that programs and tests can rely on them."""

    UNREADABLE = "unreadable"
    SYNTAX = "syntax"
    ANCHOR = "anchor"
    TAG = "tag"
    BAD_KEY = "bad-key"
    DUPLICATE_KEY = "duplicate-key"
    UNKNOWN_KEY = "unknown-key"
    MISSING_KEY = "missing-key"
    WRONG_TYPE = "wrong-type"
    NO_CHOICE = "no-choice"
    EMPTY_LIST = "empty-list"
    BAD_DOMAIN = "bad-domain"
    BAD_ADDRESS = "bad-address"
    BAD_PASSWORD = "bad-password"
    BAD_QUOTA = "bad-quota"
    BAD_DURATION = "bad-duration"
    BAD_WEBHOOK = "bad-webhook"
    BAD_S3 = "bad-s3"
    TWICE = "twice"
    FOREIGN_DOMAIN = "foreign-domain"
    OWN_DOMAIN = "own-domain"
    NO_RELAY = "no-relay"
    UNKNOWN_ADMIN = "unknown-admin"
    UNKNOWN_DOMAIN = "unknown-domain"
    UNKNOWN_ADDRESS = "unknown-address"
    IN_USE = "in-use"
    LAST_ONE = "last-one"
    LOOP = "loop"
    OLD_MAIL = "old-mail"
    NOT_SET_UP = "not-set-up"
    NOT_BUILT = "not-built"


class Refusal(ValueError):
    """One value is refused, wherever it stands.

    Args:
        found: what the value is; a secret is never quoted.
        expected: what it should be.
        remedy: what to do about it.
    """

    def __init__(self, kind: Kind, found: str, expected: str, remedy: str) -> None:
        super().__init__(f"{found}; expected {expected}; {remedy}")
        self.kind = kind
        self.found = found
        self.expected = expected
        self.remedy = remedy


@dataclass(frozen=True)
class Finding:
    """A refusal with the path of its value, before anybody knows lines.

    `first` is the path of an earlier value that this one clashes with. Paths are kept out of `repr`: where a `:` was
    forgotten, a key holds a password.
    """

    path: Path = field(repr=False)
    kind: Kind
    found: str
    expected: str
    remedy: str
    first: Path | None = None

    @classmethod
    def of(cls, path: Path, refusal: Refusal) -> Finding:
        """Give a refusal its place."""
        return cls(path, refusal.kind, refusal.found, refusal.expected, refusal.remedy)


@dataclass(frozen=True, order=True)
class Span:
    """A stretch of a text. Lines and columns count characters from 1; the end is exclusive."""

    line: int
    column: int
    end_line: int
    end_column: int


@dataclass(frozen=True)
class Problem:
    """What is wrong, and where in the user's file; `span` is None when it is no matter of a line."""

    kind: Kind
    path: Path = field(repr=False)
    span: Span | None
    found: str
    expected: str
    remedy: str

    @property
    def line(self) -> int:
        """The line in the user's file, from 1; 0 when there is none."""
        return self.span.line if self.span else 0


def quoted(text: str) -> str:
    """Give a text for use in a sentence: short, and without anything that a terminal would obey."""
    cut = text if len(text) <= _LONGEST_QUOTE else f"{text[: _LONGEST_QUOTE - 1]}…"
    return f"`{printable(cut)}`"


def printable(text: str) -> str:
    """Replace each character that has no glyph of its own (control codes, direction marks, surrogates)."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)
