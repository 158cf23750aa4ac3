"""YAML as a site file may use it: plain data, and the place of each key and value in the text.

Only what a person writes by hand is taken: mappings, lists, texts and whole numbers. `no`, `2024-01-01` and `010` are
texts here, whatever YAML 1.1 says. Anchors, aliases and tags are refused: they make a file of a few lines unfold into
millions of values, or into something else than it seems to be.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import yaml

from model.passwords import harmless_key
from model.problems import Finding, Kind, Path, Span, quoted
from model.yaml_faults import control_character, half_character, impossible_escape, syntax_fault, too_deep

_DEEPEST = 20
"""A site has three levels; Python's recursion limit is far away."""

_NUMBER = re.compile(r"0|[1-9][0-9]{0,15}")
_NOTHING = {"", "~", "null", "Null", "NULL"}

_REFUSED = "refused"
"""Tag of a node that stands for an alias."""


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
    unread: set[Path] = field(default_factory=set)
    """Where `data` has nothing although the file has something; it has its finding."""
    _by_path: dict[Path, Entry] = field(default_factory=dict)
    _first_inside: dict[Path, Entry] = field(default_factory=dict)

    def add(self, entry: Entry) -> None:
        """Note an entry; of two with the same path the first is kept for `span`."""
        self.entries.append(entry)
        self._by_path.setdefault(entry.path, entry)
        if entry.path:
            self._first_inside.setdefault(entry.path[:-1], entry)

    def span(self, path: Path) -> Span | None:
        """Give the place to show for a path: a short value itself, else its key, its beginning, or what is around."""
        entry = self._by_path.get(path)
        if entry is None:
            return self.span(path[:-1]) if path else None
        if entry.value.line == entry.value.end_line and entry.value.column < entry.value.end_column:
            return entry.value
        if entry.key:
            return entry.key
        inside = self._first_inside.get(path)
        return self.key_span(inside.path) if inside else entry.value

    def key_span(self, path: Path) -> Span | None:
        """Give the place of the key at a path, or what `span` gives where there is none."""
        entry = self._by_path.get(path)
        return entry.key if entry and entry.key else self.span(path)


def read_tree(text: str) -> Tree:
    """Take a text apart.

    Raises:
        SyntaxFault: it is no YAML, or no single document.
    """
    control_character(text)
    tree = Tree()
    try:
        node = _Loader(text, tree).get_single_node()
    except yaml.MarkedYAMLError as error:
        raise syntax_fault(error) from None
    except (ValueError, OverflowError):
        # PyYAML gives the number of "\UFFFFFFFF" to chr().
        raise impossible_escape(text) from None
    if node is not None:
        tree.data = _Builder(tree).value(node, (), None)
    return tree


class _Loader(yaml.SafeLoader):
    """PyYAML up to its node tree; takes anchors, aliases and tags out."""

    def __init__(self, text: str, tree: Tree) -> None:
        super().__init__(text)
        self._tree = tree
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        start = event.start_mark
        if self._depth >= _DEEPEST:
            raise too_deep(start)
        is_alias = isinstance(event, yaml.AliasEvent)
        if is_alias:
            self.get_event()  # type: ignore[no-untyped-call]
            self._refuse(start, Kind.ANCHOR, "an alias (a text that starts with `*`)")
            return yaml.ScalarNode(_REFUSED, "", event.start_mark, event.end_mark)
        text = event.value if isinstance(event, yaml.ScalarEvent) else ""
        if half := half_character(text, start):
            raise half
        if event.anchor is not None:
            self._refuse(start, Kind.ANCHOR, "an anchor (a text that starts with `&`)")
            event.anchor = None
        if event.tag is not None:
            self._refuse(start, Kind.TAG, "a tag (a text that starts with `!`)")
            event.tag = None
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def _refuse(self, start: yaml.Mark, kind: Kind, found: str) -> None:
        remedy = "write the value out, wherever it is needed; put it in quotes if it is a plain text"
        # The mark of such an event begins here but ends after the value.
        span = Span(start.line + 1, start.column + 1, start.line + 1, start.column + 2)
        self._tree.findings.append((span, Finding((), kind, found, "the plain value", remedy)))


class _Builder:
    """Turns nodes into plain data and notes where each value stands."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree

    def value(self, node: yaml.Node, path: Path, key: Span | None) -> Any:
        text = node.value if isinstance(node, yaml.ScalarNode) else None
        self._tree.add(Entry(path, key, span_of(node), text))
        if node.tag == _REFUSED:
            self._tree.unread.add(path)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, (*path, index), None) for index, item in enumerate(node.value)]
        return _scalar(node.value, plain=getattr(node, "style", None) is None)

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        data: dict[str, Any] = {}
        keys: dict[str, Span] = {}
        for key_node, value_node in node.value:
            span = span_of(key_node)
            name = key_node.value if isinstance(key_node, yaml.ScalarNode) else ""
            value = self.value(value_node, (*path, name), span)
            if not name:
                finding = Finding(path, Kind.BAD_KEY, "a key that is no text", "a word before the `:`", "name it")
                self._tree.findings.append((span, finding))
            elif name in keys:
                shown = quoted(name) if harmless_key(name) else "a key"
                found = f"{shown} a second time; the first is in line {keys[name].line}"
                finding = Finding(
                    (*path, name), Kind.DUPLICATE_KEY, found, "each key once", "remove one, or join the two"
                )
                self._tree.findings.append((span, finding))
            else:
                keys[name] = span
                data[name] = value
        return data


def span_of(node: yaml.Node) -> Span:
    """Give the place of a node, as people count."""
    start, end = node.start_mark, node.end_mark
    return Span(start.line + 1, start.column + 1, end.line + 1, end.column + 1)


def _scalar(text: str, *, plain: bool) -> str | int | None:
    if plain and text in _NOTHING:
        return None
    if plain and _NUMBER.fullmatch(text):
        return int(text)
    return text
