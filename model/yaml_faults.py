"""Text that is no YAML, explained to people who have never read YAML's specification."""

from __future__ import annotations

import re
from dataclasses import dataclass

import yaml

from model.problems import Kind, Problem, Span

_LINE_BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")
"""What PyYAML counts as the end of a line."""

_NOT_PRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""YAML 1.1 §5.1."""

_IMPOSSIBLE_ESCAPE = re.compile(r"\\U(?!0010|000)")

_DEPTH = "nested too deep"
_HALF = "half a character"
_SURROGATE = re.compile("[\ud800-\udfff]")


class SyntaxFault(Exception):
    """A text is no YAML; holds the one problem at which reading has ended."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.found)
        self.problem = problem


@dataclass(frozen=True)
class _Explanation:
    """Our words for one of PyYAML's errors.

    `words` is a part of PyYAML's own text. Its text is never shown: it quotes the file, and there it may be a password.
    """

    words: str
    found: str
    expected: str
    remedy: str
    at_start: bool = False
    """Whether the thing begun is a better place to show than where reading has ended."""


_QUOTE_IT = "put a text with special characters between single quotes: 'like this'"

_EXPLANATIONS = (
    _Explanation(
        r"character '\t'",
        "a tab",
        "spaces at the beginning of a line",
        "replace each tab by spaces (most editors can: “convert tabs to spaces”)",
    ),
    _Explanation(
        "that cannot start any token",
        "a text that begins with a character that means something else in YAML",
        "a text that begins with a letter or digit, or one in quotes",
        _QUOTE_IT,
    ),
    _Explanation(
        "mapping values are not allowed here",
        "a second `:` in one line, or a line that is indented too far",
        "one `key: value` in a line, keys of one group exactly below each other",
        f"correct the indentation; or {_QUOTE_IT}",
    ),
    _Explanation(
        "could not find expected ':'",
        "a line without `:`",
        "`key: value`, with a space after the `:`",
        "write a `:` and a space after the key, and quotes around a text that goes on in the next line",
        at_start=True,
    ),
    _Explanation(
        "found unexpected end of stream",
        "a quotation mark without its partner",
        "a second one at the end of the text",
        "close the quotes",
        at_start=True,
    ),
    _Explanation(
        "found unknown escape character",
        r"a `\` that begins no escape that YAML knows",
        r"a text in double quotes in which `\` is written twice",
        "use single quotes, in which every character stands for itself",
    ),
    _Explanation(
        "while parsing a flow sequence",
        "a `[` whose list does not end well",
        "a `,` after each item and a `]` at the end",
        "close the list, and look for a missing `,`",
        at_start=True,
    ),
    _Explanation(
        "while parsing a flow mapping",
        "a `{` whose group does not end well",
        "a `,` after each `key: value` and a `}` at the end",
        "close the group, and look for a missing `,`",
        at_start=True,
    ),
    _Explanation(
        "sequence entries are not allowed here",
        "a `- ` in the middle of a line",
        "each list item in a line of its own",
        "begin a new line before the `-`",
    ),
    _Explanation(
        "expected <block end>",
        "a line that does not line up with the ones above it",
        "the keys of one group, and the `-` of one list, exactly below each other",
        "correct the spaces at the beginning of this line",
    ),
    _Explanation(
        "expected a single document",
        "a second document after `---` or `...`",
        "one document in a file",
        "remove the line and what belongs to another file",
    ),
    _Explanation(
        _DEPTH,
        "lists in lists in lists, too deep",
        "three levels at the most",
        "remove the needless brackets",
    ),
    _Explanation(
        _HALF,
        r"a `\u` escape of half a character (U+D800 to U+DFFF)",
        "a character that Unicode has",
        "write the character itself",
    ),
)

_UNKNOWN = _Explanation(
    "",
    "something that is no valid YAML",
    "`key: value` lines and lists, as in examples/home.yaml",
    f"compare the line with the example; {_QUOTE_IT}",
)


def split_lines(text: str) -> list[str]:
    """Give the lines of a text as PyYAML counts them, without their ends."""
    return _LINE_BREAK.split(text)


def syntax_fault(error: yaml.MarkedYAMLError) -> SyntaxFault:
    """Explain an error of PyYAML."""
    words = f"{error.context or ''} {error.problem or ''}"
    explanation = next((known for known in _EXPLANATIONS if known.words in words), _UNKNOWN)
    mark = error.problem_mark
    if explanation.at_start and error.context_mark:
        mark = error.context_mark
    return _fault(explanation, _point(mark.line, mark.column) if mark else None)


def control_character(text: str) -> None:
    """Look for characters that no YAML text may hold.

    Raises:
        SyntaxFault: there is one.
    """
    found = _NOT_PRINTABLE.search(text)
    if found:
        explanation = _Explanation(
            "",
            f"an invisible control character (U+{ord(found[0]):04X})",
            "readable characters only",
            "delete it; it may have come along when text was copied from somewhere",
        )
        raise _fault(explanation, _place(text, found.start()))


def impossible_escape(text: str) -> SyntaxFault:
    r"""Explain an escape such as `"\UFFFFFFFF"`, at which PyYAML gives up without a mark."""
    found = _IMPOSSIBLE_ESCAPE.search(text)
    explanation = _Explanation(
        "", r"a `\U` escape of no character", "a character that Unicode has", "write the character itself"
    )
    return _fault(explanation, _place(text, found.start()) if found else None)


def too_deep(mark: yaml.Mark) -> yaml.MarkedYAMLError:
    """Make the error that ends reading before Python's recursion limit does."""
    return yaml.MarkedYAMLError(None, None, _DEPTH, mark)


def half_character(text: str, mark: yaml.Mark) -> yaml.MarkedYAMLError | None:
    r"""Make the error for a text with an escape such as `"\ud83d"`, which no file could hold; None for any other."""
    return yaml.MarkedYAMLError(None, None, _HALF, mark) if _SURROGATE.search(text) else None


def _fault(explanation: _Explanation, span: Span | None) -> SyntaxFault:
    return SyntaxFault(Problem(Kind.SYNTAX, (), span, explanation.found, explanation.expected, explanation.remedy))


def _place(text: str, offset: int) -> Span:
    before = split_lines(text[:offset])
    return _point(len(before) - 1, len(before[-1]))


def _point(line: int, column: int) -> Span:
    return Span(line + 1, column + 1, line + 1, column + 2)
