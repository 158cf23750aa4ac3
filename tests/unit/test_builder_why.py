"""What differs between the inputs of two stages, in words."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.cache import Entry
from builder.commands.why import in_words
from builder.differences import differences
from builder.why import Fate, Verdict
from builder.workshop import Stage

_ONE, _TWO = "-" + "1" * 64, "x" + "2" * 64


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ({"tools": {"mtools": "4.0"}}, {"tools": {"mtools": "4.1"}}, "build tools: mtools 4.0 → 4.1"),
        ({"tools": {}}, {"tools": {"zstd": "1.5"}}, "build tools: zstd is new"),
        ({"code": {"root.py": _ONE}}, {"code": {"root.py": _TWO}}, "the builder's own code: root.py has changed"),
        ({"files": {"a/b": _ONE}}, {"files": {}}, "project file: a/b is gone"),
        ({"packages": ["a", "c"]}, {"packages": ["a", "b", "c"]}, "packages: b is new"),
        ({"packages": _ONE}, {"packages": _TWO}, "the package layer has changed"),
        ({"root": _ONE}, {"root": _TWO}, "the root file system has changed"),
        ({"size": 1}, {"size": 2}, "size: 1 → 2"),
        ({"hooks": {"base": "x" * 99}}, {"hooks": {"base": "y" * 99}}, "hooks: base has changed"),
        (
            {"components": [{"name": "a", "ports": [{"name": "smtp", "port": 25}]}]},
            {"components": [{"name": "a", "ports": [{"name": "smtp", "port": 26}]}]},
            "components: a.ports.smtp.port 25 → 26",
        ),
        ({"site": {"users": _ONE}}, {"site": {"users": _TWO}}, "site.yaml: users has changed"),
        ({"profile": {"size": 1}}, {}, "profile: is gone"),
    ],
)
def test_one_difference_is_one_line(old: dict[str, object], new: dict[str, object], line: str) -> None:
    assert differences(old, new) == [line]


def test_equal_inputs_differ_in_nothing() -> None:
    inputs: dict[str, object] = {"tools": {"a": "1"}, "packages": ["a"], "size": 1, "nothing": None}
    assert differences(inputs, dict(inputs)) == []


def _entry(folder: Path) -> Entry:
    return Entry(folder / "root" / ("0" * 64), "Root file system", {"size": 1}, 1.0, 1.0, 1)


def test_each_fate_has_its_words(tmp_path: Path) -> None:
    entry = _entry(tmp_path)
    stage = Stage.ROOT
    assert "never made here before" in in_words(Verdict(stage, Fate.MADE))
    changed = in_words(Verdict(stage, Fate.MADE, before=entry, reasons=("size: 1 → 2",)))
    assert "makes it" in changed
    assert "  size: 1 → 2" in changed
    reused = in_words(Verdict(stage, Fate.REUSED, entry=entry))
    assert "used again" in reused
    assert "none before" in reused
    follows = in_words(Verdict(stage, Fate.FOLLOWS, causes=(Stage.PROJECT,)))
    assert "darkpipe why project" in follows
    assert "every build" in in_words(Verdict(Stage.IMAGE, Fate.MADE, before=entry))
