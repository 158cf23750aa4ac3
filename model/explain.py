"""Pydantic's errors in our words: found, expected, what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from enum import StrEnum
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from model.passwords import harmless_key, is_secret, may_be_passphrase, no_password_setting
from model.problems import Finding, Kind, Path, Refusal, quoted
from model.s3_setting import no_secret_key
from model.site import S3, Alarm, Disk, Relay, Site, User
from model.supported import working_choices

_GROUPS: dict[Path, type[BaseModel]] = {
    (): Site,
    ("users",): User,
    ("relays",): Relay,
    ("relays", "alarm"): Alarm,
    ("relays", "s3"): S3,
    ("disk",): Disk,
}
"""The model of each group of keys, by its path without list positions."""

_LONGEST_ECHO = 40


def explain(error: ValidationError) -> Iterator[Finding]:
    """Give a finding for each error of a field; what the model says about the whole is left to `cross_checks`."""
    for details in error.errors(include_url=False):
        finding = _refusal(details) if details["type"] == "value_error" else _misfit(details)
        if finding:
            yield finding


def _refusal(details: ErrorDetails) -> Finding | None:
    """Pass on what one of our own validators has said."""
    refusal = details.get("ctx", {}).get("error")
    return Finding.of(details["loc"], refusal) if isinstance(refusal, Refusal) else None


def _misfit(details: ErrorDetails) -> Finding | None:
    """Explain what pydantic has found by itself."""
    path, value = details["loc"], details["input"]
    finding: Finding | None = None
    match details["type"]:
        case "extra_forbidden":
            finding = _unknown_key(path)
        case "missing":
            finding = _missing_key(path)
        case "default_factory_not_called":
            # Newer pydantic: `admin` follows from the users, who are reported already.
            pass
        case _ if _keys(path) == ("relays", "s3", "secret_key"):
            finding = Finding.of(path, no_secret_key(_kind_of(value)))
        case _ if is_secret(path):
            finding = Finding.of(path, no_password_setting(_kind_of(value)))
        case "enum":
            finding = _no_choice(path, value, [str(choice) for choice in _choices(path)])
        case "literal_error":
            expected = f"{_kind_of(_example(path), quote=True)}, without quotes"
            finding = Finding(path, Kind.NO_CHOICE, _kind_of(value, quote=True), expected, _write(path))
        case "too_short" if value:
            # Pydantic counts the items that are good; the others are reported already.
            pass
        case "too_short":
            finding = Finding(path, Kind.EMPTY_LIST, "an empty list", _what(path), _write(path))
        case _:
            finding = Finding(path, Kind.WRONG_TYPE, _kind_of(value), _what(path), _write(path, value))
    return finding


def _unknown_key(path: Path) -> Finding:
    name, known = str(path[-1]), list(_group(path[:-1]).model_fields)
    expected = "one of " + ", ".join(quoted(key) for key in known)
    if not harmless_key(name):
        remedy = f"put a space after the `:` as in `{known[-1]}: …`, or remove the key"
        return Finding(path, Kind.UNKNOWN_KEY, "a key that is not known here", expected, remedy)
    close = difflib.get_close_matches(name.lower().replace("-", "_"), known, n=1)
    remedy = f"did you mean {quoted(close[0])}?" if close else "remove the key, or look for its right place"
    return Finding(path, Kind.UNKNOWN_KEY, f"{quoted(name)}, a key that is not known here", expected, remedy)


def _missing_key(path: Path) -> Finding:
    return Finding(
        path, Kind.MISSING_KEY, f"no key {quoted(str(path[-1]))}", _what(path), _write(path).replace("write", "add", 1)
    )


def _no_choice(path: Path, value: Any, choices: list[str]) -> Finding:
    works = {str(choice) for choice in working_choices(path) or choices}
    expected = "one of " + ", ".join(quoted(choice) for choice in choices) if len(choices) > 1 else quoted(choices[0])
    if len(works) < len(choices):
        expected += f" (works today: {', '.join(quoted(choice) for choice in sorted(works))})"
    close = difflib.get_close_matches(value.lower(), choices, n=1) if isinstance(value, str) else []
    suggestion = close[0] if close else _usual(path)
    remedy = f"did you mean {quoted(suggestion)}?" if close else f"write {quoted(f'{path[-1]}: {suggestion}')}"
    # `unlock: passphrase` asks for one later; who writes the passphrase itself shall not find it on the device's page.
    hidden = _keys(path) == ("disk", "unlock") and isinstance(value, str) and may_be_passphrase(value, choices)
    return Finding(path, Kind.NO_CHOICE, _kind_of(value, quote=not hidden), expected, remedy)


def _usual(path: Path) -> str:
    """Give the choice to suggest to somebody whose own resembles none."""
    field = _field(path)
    return str(_example(path) if field.is_required() else field.default)


def _kind_of(value: Any, *, quote: bool = False) -> str:
    """Name a value by its type; quote it only where it cannot be a secret."""
    match value:
        case None:
            return "nothing"
        case str():
            return f"the text {quoted(value)}" if quote else "a text"
        case int():
            return f"the number {value}" if quote else "a number"
        case list() | tuple():
            return "a list"
        case _:
            return "a group of keys"


def _what(path: Path) -> str:
    """Say what belongs at a path: its type, and its meaning in the words of the model."""
    if _is_item(path):
        keys = ", ".join(quoted(key) for key in _group(path).model_fields) if _keys(path) in _GROUPS else ""
        return f"a group of keys: {keys}" if keys else "a text"
    description = _field(path).description or ""
    return f"{_type(path)}. {description}"


def _write(path: Path, value: Any = None) -> str:
    """Give an example of a key and its value that can be typed in; made of what was found, if only brackets miss."""
    if _is_item(path):
        return f"write `{_flow(_example(path[:-1])[0])}`"
    example = _example(path)
    if (
        isinstance(value, str)
        and len(value) <= _LONGEST_ECHO
        and _keys(path) not in _GROUPS
        and isinstance(example, list)
    ):
        example = [value]
    elif isinstance(value, str) and isinstance(example, dict):
        example = _grouped(path, value) or example
    return f"write `{_flow({str(path[-1]): example})[1:-1]}`"


def _grouped(path: Path, value: str) -> dict[str, str]:
    """Give a group that has one of its choices where a key of it should be; empty when it is none."""
    return {key: value for key in _group(path).model_fields if value in _choices((*path, key))}


def _example(path: Path) -> Any:
    return (_field(path).examples or [None])[0]


def _type(path: Path) -> str:
    field, example = _field(path), _example(path)
    if isinstance(example, list):
        return "a list of at least one" if field.is_required() else "a list"
    return _kind_of(example)


def _flow(value: Any) -> str:
    text: str = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, sort_keys=False, width=1000)
    return text.removesuffix("\n").removesuffix("\n...")


def _is_item(path: Path) -> bool:
    return isinstance(path[-1], int)


def _group(path: Path) -> type[BaseModel]:
    return _GROUPS[_keys(path)]


def _field(path: Path) -> FieldInfo:
    keys = _keys(path)
    return _GROUPS[keys[:-1]].model_fields[str(keys[-1])]


def _choices(path: Path) -> list[StrEnum]:
    annotation = _field(path).annotation
    return list(annotation) if isinstance(annotation, type) and issubclass(annotation, StrEnum) else []


def _keys(path: Path) -> Path:
    return tuple(part for part in path if isinstance(part, str))
