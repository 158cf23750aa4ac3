"""`./dev test relay`: which machines it makes."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from click.testing import CliRunner

import tests.cloud.command
from tests.tiers import Outcome


@pytest.mark.parametrize(
    ("arguments", "suites"),
    [([], ["bookworm", "trixie"]), (["--suite", "bookworm"], ["bookworm"]), (["--suite", "trixie"], ["trixie"])],
)
def test_suites_are_those_that_were_asked_for(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], suites: list[str]
) -> None:
    asked: list[str] = []

    def run_tiers(names: Sequence[str], options: Sequence[str]) -> list[Outcome]:
        assert list(names) == ["images"]
        asked.extend(word.partition("=")[2] for word in options if word.startswith("--relay-suite="))
        return [Outcome("images", passed=5, failed=0, skipped=0, seconds=1.0)]

    monkeypatch.setattr(tests.cloud.command, "run_tiers", run_tiers)
    done = CliRunner().invoke(tests.cloud.command.relay, arguments)
    assert done.exit_code == 0, done.output
    assert sorted(asked) == suites
