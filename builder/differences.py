"""What differs between the inputs of two stages, in words."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from builder.workshop import Stage

_DIGEST = re.compile(r"[x-]?[0-9a-f]{64}")
_LONGEST = 60
_LABELS = {
    "code": "the builder's own code",
    "tools": "build tools",
    "files": "project file",
    "site": "site.yaml",
    "archive": "Debian's archive",
}


def differences(old: Mapping[str, object], new: Mapping[str, object]) -> list[str]:
    """Name what was changed, added and taken away, one line each, in the order of the inputs' names.

    Args:
        old: what a stage was made from.
        new: what it is or would be made from.
    """
    lines = []
    for key in sorted({*old, *new}):
        label = _LABELS.get(key, key)
        if key in list(Stage) and isinstance(old.get(key), str) and isinstance(new.get(key), str):
            if old[key] != new[key]:
                lines.append(f"the {Stage(key).label.lower()} has changed")
        else:
            lines += [f"{label}: {text}" for text in _compare(_MISSING, old.get(key, _MISSING), new.get(key, _MISSING))]
    return lines


class _Missing:
    pass


_MISSING = _Missing()


def _compare(path: object, old: object, new: object) -> Iterator[str]:
    """Yield `PATH CHANGE` for each leaf; a path of _MISSING is the whole input."""
    if old == new:
        return
    name = "" if path is _MISSING else f"{path} "
    before, after = _as_mapping(old), _as_mapping(new)
    if before is not None and after is not None:
        for key in sorted({*before, *after}):
            below = key if path is _MISSING else f"{path}.{key}"
            yield from _compare(below, before.get(key, _MISSING), after.get(key, _MISSING))
    elif old is _MISSING:
        yield f"{name}is new"
    elif new is _MISSING:
        yield f"{name}is gone"
    elif _tells_something(old) and _tells_something(new):
        yield f"{name}{old} → {new}"
    else:
        yield f"{name}has changed"


def _as_mapping(value: object) -> dict[str, object] | None:
    """See lists as mappings too: of words by themselves, of things by their names."""
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, list):
        if all(isinstance(item, Mapping) and "name" in item for item in value):
            return {str(item["name"]): item for item in value}
        if all(isinstance(item, str) for item in value):
            return dict.fromkeys(value, True)
    return None


def _tells_something(value: object) -> bool:
    text = str(value)
    return not isinstance(value, dict | list) and len(text) <= _LONGEST and not _DIGEST.fullmatch(text)
