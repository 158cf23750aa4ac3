"""Each folder imports what docs/architecture.md says that it may, and nothing else of ours."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
_ROW = re.compile(r"^\| `(\w+)/` \|[^|]*\| ([^|]*) \|$", re.MULTILINE)


def allowed() -> dict[str, set[str]]:
    """The table of the document: by folder, the folders and files that it may import."""
    text = (REPOSITORY / "docs/architecture.md").read_text().partition("## Where code lives")[2]
    return {folder: set(re.findall(r"`([^`]+)`", cell)) for folder, cell in _ROW.findall(text) if cell.strip()}


def imported(source: str) -> Iterator[str]:
    """The modules that a source imports, wherever in it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from (f"{node.module}.{name.name}" for name in node.names)
        elif isinstance(node, ast.Import):
            yield from (name.name for name in node.names)


def strangers(folder: str, source: str) -> list[str]:
    """The imports of a source in a folder that the table does not allow."""
    table = allowed()
    may = {entry.removesuffix(".py").replace("/", ".") for entry in table[folder]} | {folder}
    ours = [module for module in imported(source) if module.partition(".")[0] in {*table, "tests", "benchmarks"}]
    return [module for module in ours if not any(f"{module}.".startswith(f"{entry}.") for entry in may)]


@pytest.mark.parametrize("folder", sorted(allowed()))
def test_a_folder_imports_what_it_may(folder: str) -> None:
    files = sorted((REPOSITORY / folder).rglob("*.py"))
    found = {str(file.relative_to(REPOSITORY)): strangers(folder, file.read_text()) for file in files}
    assert {name: modules for name, modules in found.items() if modules} == {}
    assert len(files) > 3


@pytest.mark.parametrize(
    ("folder", "source", "found"),
    [
        ("model", "from stack.stack import Stack", ["stack.stack.Stack"]),
        ("relay", "def f():\n    import home.status", ["home.status"]),
        ("builder", "from relay.spool import Spool\nfrom relay.render import render", ["relay.spool.Spool"]),
        ("firstboot", "from home import store", ["home.store"]),
        ("home", "from builder.cli import main\nfrom tests import dev", ["builder.cli.main", "tests.dev"]),
        ("home", "import json\nfrom firstboot.seed import take_seed", []),
    ],
)
def test_a_planted_import_is_found(folder: str, source: str, found: list[str]) -> None:
    assert strangers(folder, source) == found
