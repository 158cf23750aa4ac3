"""`site.yaml` in and out: every problem of a file at once, each with its line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from model import explain
from model.checks import cross_checks
from model.problems import Finding, Kind, Problem, Span
from model.site import Site
from model.supported import not_built
from model.yaml_faults import SyntaxFault
from model.yaml_tree import Tree, read_tree

SEED_NAME = "darkpipe.yaml"
"""A site file of this name in the root of the boot partition is the seed: a device takes it over at its first start."""

LARGEST = 1024 * 1024
"""Bytes. A site of a thousand users is a tenth of it."""

_EXAMPLE = "examples/home.yaml"


class SiteError(Exception):
    """A site file is refused.

    Its text as an exception names lines and problems only; `text` is the whole file and may hold secrets.
    `model.report.annotate` shows it to people.
    """

    def __init__(self, name: str, text: str, problems: tuple[Problem, ...]) -> None:
        lines = [f"line {problem.line}: {problem.found}" if problem.line else problem.found for problem in problems]
        super().__init__("\n  ".join([f"{name} cannot be used:", *lines]))
        self.name = name
        self.text = text
        self.problems = problems


def read_site(path: Path) -> Site:
    """Read and check a file.

    Raises:
        SiteError: it cannot be read, or is no site that works today.
    """
    name = str(path)
    try:
        with path.open("rb") as file:
            return read_content(file.read(LARGEST + 1), name)
    except OSError as error:
        found = f"a file that cannot be read ({(error.strerror or 'unknown reason').lower()})"
        raise _unreadable(name, found, "a site file", f"check the name; {_EXAMPLE} is one to copy") from None


def read_content(content: bytes, name: str) -> Site:
    """Check what was read of a file.

    Args:
        content: all of it, or more than `LARGEST` bytes of it.
        name: what to call it in messages.

    Raises:
        SiteError: it is no site that works today.
    """
    if len(content) > LARGEST:
        found = f"more than {LARGEST // 1024} KiB"
        raise _unreadable(name, found, "a site file of a few lines", "check that it is the file you mean")
    try:
        # An editor on Windows may have put a mark in front (RFC 3629 §6).
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        found = f"bytes in line {line} that are no UTF-8"
        raise _unreadable(name, found, "a text in UTF-8", "save the file with the encoding UTF-8") from None
    return parse_site(text, name)


def parse_site(text: str, name: str) -> Site:
    """Check the text of a site file.

    Args:
        text: the whole of it.
        name: what to call it in messages.

    Raises:
        SiteError: it is no site that works today; holds all that can be said about it.
    """
    try:
        tree = read_tree(text)
    except SyntaxFault as fault:
        raise SiteError(name, text, (fault.problem,)) from None
    if not isinstance(tree.data, dict):
        raise SiteError(name, text, _problems(tree, [_no_mapping(tree.data)]))
    site, findings = _check(tree.data)
    problems = _problems(tree, findings)
    if problems or site is None:
        raise SiteError(name, text, problems)
    return site


def dump_site(site: Site) -> str:
    """Write a site as YAML, every value spelt out; the same site always gives the same text.

    The text holds the password hashes. `parse_site` reads the same site from it.
    """
    text: str = yaml.safe_dump(site.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=4096)
    return text


def check_values(data: dict[str, Any]) -> list[Finding]:
    """Say all that is wrong with the values of a site that stands in no file (yet); what is missing is reported too."""
    return _check(data)[1]


def _check(data: dict[str, Any]) -> tuple[Site | None, list[Finding]]:
    site, findings = None, []
    try:
        site = Site.model_validate(data)
    except ValidationError as error:
        findings = list(explain.explain(error))
    return site, [*findings, *cross_checks(data), *not_built(data)]


def _no_mapping(data: Any) -> Finding:
    found = "no key and no value" if data is None else "a list" if isinstance(data, list) else "a single text"
    return Finding((), Kind.WRONG_TYPE, found, "keys and values of a site", f"begin with a copy of {_EXAMPLE}")


def _problems(tree: Tree, findings: list[Finding]) -> tuple[Problem, ...]:
    """Give findings their places, and sort by them."""
    problems = [_problem(span, finding, tree) for span, finding in tree.findings]
    problems += [
        _problem(_span(finding, tree), finding, tree)
        for finding in findings
        if not any(finding.path[:length] in tree.unread for length in range(len(finding.path) + 1))
    ]
    return tuple(sorted(problems, key=lambda problem: problem.span or Span(0, 0, 0, 0)))


def _span(finding: Finding, tree: Tree) -> Span | None:
    return tree.key_span(finding.path) if finding.kind is Kind.UNKNOWN_KEY else tree.span(finding.path)


def _problem(span: Span | None, finding: Finding, tree: Tree) -> Problem:
    found = finding.found
    if finding.first is not None and (first := tree.span(finding.first)):
        found += f"; the first is in line {first.line}"
    return Problem(finding.kind, finding.path, span, found, finding.expected, finding.remedy)


def _unreadable(name: str, found: str, expected: str, remedy: str) -> SiteError:
    return SiteError(name, "", (Problem(Kind.UNREADABLE, (), None, found, expected, remedy),))
