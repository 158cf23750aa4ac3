"""One YAML file of the Raspberry Pi Imager, read with suspicion: each value with its type, each fault with its line."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from model.passwords import harmless_key
from model.problems import Path, quoted
from model.yaml_faults import SyntaxFault
from model.yaml_tree import Tree, read_tree

LARGEST = 64 * 1024
"""Octets; the Imager writes a few hundred."""

_SHOWN = frozenset({"hostname", "time_zone", "country", "name", "layout", "variant", "model"})
"""Fields of the models whose values an error may quote: they are no secrets, and nobody takes them for such."""

Model = TypeVar("Model", bound=BaseModel)


class ImagerFile:
    """A file taken apart; what is wrong with it goes to a list that it shares with the others.

    Args:
        faults: gets one line of text for each fault.
    """

    def __init__(self, name: str, content: bytes, faults: list[str]) -> None:
        self._name, self._faults = name, faults
        self._tree = self._read(content)

    @property
    def data(self) -> Any:
        """The whole file as plain data."""
        return self._tree.data

    def fault(self, place: Path, found: str, expected: str) -> None:
        """Note what is wrong at a place."""
        span = self._tree.span(place)
        line = f", line {span.line}" if span else ""
        # A key that announces a password may hold it, where the `:` was forgotten; and any text may hold control codes.
        keys = [part if harmless_key(part) else "…" for part in place if isinstance(part, str)]
        key = f"{quoted('.'.join(keys))}: " if keys else ""
        self._faults.append(f"{self._name}{line}: {key}found {found}, expected {expected}")

    def mapping(self, value: Any, place: Path, known: Collection[str] | None = None) -> dict[str, Any]:
        """Give keys and values; none for nothing.

        Args:
            known: keys that may be there; None for any.
        """
        if value is None:
            return {}
        if not isinstance(value, dict):
            self.fault(place, _kind(value), "keys and values")
            return {}
        for key in value.keys() - set(value if known is None else known):
            self.fault((*place, key), "a setting that the device does not have", "only what the Imager writes")
        return value

    def items(self, value: Any, place: Path) -> list[Any]:
        """Give the items of a list; none for nothing."""
        if value is None or isinstance(value, list):
            return value or []
        self.fault(place, _kind(value), "a list")
        return []

    def text(self, value: Any, place: Path) -> str | None:
        """Give a text; None for nothing."""
        if value is None or isinstance(value, str | int):
            return None if value is None else str(value)
        self.fault(place, _kind(value), "a text")
        return None

    def truth(self, value: Any, place: Path) -> bool:
        """Give true or false; false for nothing."""
        if value in (None, "true", "false"):
            return bool(value == "true")
        self.fault(place, _kind(value), "`true` or `false`")
        return False

    def valid(
        self, make: type[Model], place: Path, at: Mapping[Path, Path] | None = None, **values: Any
    ) -> Model | None:
        """Make a model of some values, or note what is wrong with them; secrets are not quoted.

        Args:
            place: where the values stand.
            at: where single ones of them do, by pydantic's location.
        """
        try:
            return make(**values)
        except ValidationError as error:
            for one in error.errors(include_url=False, include_context=False):
                found = quoted(str(one["input"])) if one["loc"][0] in _SHOWN else "something else"
                where = (at or {}).get(one["loc"], place)
                self.fault(where, found, str(one["msg"]).removeprefix("Value error, expected "))
            return None

    def _read(self, content: bytes) -> Tree:
        if len(content) > LARGEST:
            self._faults.append(f"{self._name}: found more than {LARGEST:,} octets, expected a few hundred")
            return Tree()
        try:
            tree = read_tree(content.decode())
        except UnicodeDecodeError:
            self._faults.append(f"{self._name}: found octets that are no UTF-8, expected a text")
        except SyntaxFault as fault:
            problem = fault.problem
            self._faults.append(f"{self._name}, line {problem.line}: found {problem.found}; {problem.remedy}")
        else:
            for span, finding in tree.findings:
                found = f"found {finding.found}, expected {finding.expected}"
                self._faults.append(f"{self._name}, line {span.line}: {found}")
            return tree
        return Tree()


def _kind(value: Any) -> str:
    """Say what a value is without quoting it."""
    return {dict: "keys and values", list: "a list", type(None): "nothing"}.get(type(value), "another value")
