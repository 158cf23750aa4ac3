"""YAML as a site file may use it: plain data, and the place of each key and value in the text.

Only what a person writes by hand is taken: mappings, lists, texts and whole numbers. `no`, `2024-01-01` and `010` are
texts here, whatever YAML 1.1 says. Anchors, aliases and tags are refused: they make a file of a few lines unfold into
millions of values, or into something else than it seems to be.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any

import yaml
from yaml.composer import Composer
from yaml.parser import Parser
from yaml.reader import Reader
from yaml.resolver import BaseResolver
from yaml.scanner import Scanner

from model.problems import Finding, Kind, Path, Problem, Span, quoted
from model.yaml_errors import control_character, syntax_problem, too_deep

_DEEPEST = 20
"""A site has three levels; Python's recursion limit is far away."""

_NUMBER = re.compile(r"0|[1-9][0-9]{0,15}")
_NOTHING = {"", "~", "null", "Null", "NULL"}

_PLAIN_WORDS = "write the value out, wherever it is needed"


@dataclass(frozen=True)
class Entry:
    """One value of the text. `key` is where its key stands, None in a list; `text` is that of a scalar."""

    path: Path
    key: Span | None
    value: Span
    text: str | None


@dataclass
class Tree:
    """A text taken apart."""

    data: Any = None
    entries: list[Entry] = field(default_factory=list)
    findings: list[tuple[Span, Finding]] = field(default_factory=list)
    """What is refused already, such as duplicate keys; `data` does without it."""

    def span(self, path: Path) -> Span | None:
        """Give the place to show for a path: the key or value in question, or the nearest one around it."""
        entries = [entry for entry in self.entries if entry.path[: len(path)] == path]
        for entry in entries:
            if entry.path == path:
                if entry.value.line == entry.value.end_line and entry.value.column < entry.value.end_column:
                    return entry.value
                if entry.key:
                    return entry.key
        inside = [entry.key or entry.value for entry in entries if len(entry.path) > len(path)]
        if inside:
            return min(inside)
        return self.span(path[:-1]) if path else None


class SyntaxFault(Exception):
    """The text is no YAML; holds the one problem that the parser has got to."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.found)
        self.problem = problem


def read_tree(text: str) -> Tree:
    """Take a text apart.

    Raises:
        SyntaxFault: it is no YAML, or no single document.
    """
    fault = control_character(text)
    if fault:
        raise SyntaxFault(fault)
    tree = Tree()
    try:
        node = _Loader(text, tree).get_single_node()
    except yaml.MarkedYAMLError as error:
        raise SyntaxFault(syntax_problem(error, text)) from None
    except (ValueError, OverflowError):
        # PyYAML passes "\UFFFFFFFF" to chr().
        raise SyntaxFault(syntax_problem(yaml.MarkedYAMLError("an impossible character escape"), text)) from None
    if node is not None:
        tree.data = _Builder(tree).value(node, (), None)
    return tree


class _Loader(Reader, Scanner, Parser, Composer, BaseResolver):  # type: ignore[misc]
    """PyYAML up to its node tree, without its guesses about types; takes anchors, aliases and tags out."""

    def __init__(self, text: str, tree: Tree) -> None:
        Reader.__init__(self, text)
        Scanner.__init__(self)
        Parser.__init__(self)
        Composer.__init__(self)
        BaseResolver.__init__(self)
        self._tree = tree
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()
        if self._depth >= _DEEPEST:
            raise too_deep(event.start_mark)
        if isinstance(event, yaml.AliasEvent):
            self.get_event()
            self._refuse(event, Kind.ANCHOR, "an alias (a text that starts with `*`)", "quote the text if it is none")
            return yaml.ScalarNode("", "", event.start_mark, event.end_mark)
        if event.anchor is not None:
            self._refuse(event, Kind.ANCHOR, "an anchor (a text that starts with `&`)", "quote the text if it is none")
            event.anchor = None
        if event.tag is not None:
            self._refuse(event, Kind.TAG, "a tag (a text that starts with `!`)", "quote the text if it is none")
            event.tag = None
            event.implicit = (True, True) if isinstance(event, yaml.ScalarEvent) else True
        self._depth += 1
        node: yaml.Node | None = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def _refuse(self, event: yaml.Event, kind: Kind, found: str, remedy: str) -> None:
        finding = Finding((), kind, found, "the plain value", f"{_PLAIN_WORDS}; {remedy}")
        start = event.start_mark
        # The mark of an event with properties begins at them, and ends after the value.
        span = Span(start.line + 1, start.column + 1, start.line + 1, start.column + 2)
        self._tree.findings.append((span, finding))


class _Builder:
    """Turns nodes into plain data and notes where each value stands."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree

    def value(self, node: yaml.Node, path: Path, key: Span | None) -> Any:
        text = node.value if isinstance(node, yaml.ScalarNode) else None
        self._tree.entries.append(Entry(path, key, span_of(node), text))
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, (*path, index), None) for index, item in enumerate(node.value)]
        return _scalar(node)

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        data: dict[str, Any] = {}
        keys: dict[Hashable, Span] = {}
        for key_node, value_node in node.value:
            span = span_of(key_node)
            name = key_node.value if isinstance(key_node, yaml.ScalarNode) else ""
            value = self.value(value_node, (*path, name), span)
            if not name:
                self._add(span, Finding(path, Kind.BAD_KEY, "a key that is no text", "a word before the `:`", "name it"))
            elif name in keys:
                found = f"{quoted(name)} a second time; the first is in line {keys[name].line}"
                self._add(
                    span,
                    Finding((*path, name), Kind.DUPLICATE_KEY, found, "each key once", "remove one, or join the two"),
                )
            else:
                keys[name] = span
                data[name] = value
        return data

    def _add(self, span: Span, finding: Finding) -> None:
        self._tree.findings.append((span, finding))


def span_of(node: yaml.Node) -> Span:
    """Give the place of a node, as people count."""
    start, end = node.start_mark, node.end_mark
    return Span(start.line + 1, start.column + 1, end.line + 1, end.column + 1)


def _scalar(node: yaml.ScalarNode) -> Any:
    text: str = node.value
    if node.style is None and text in _NOTHING:
        return None
    if node.style is None and _NUMBER.fullmatch(text):
        return int(text)
    return text
