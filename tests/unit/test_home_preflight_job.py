"""The pre-flight as a job: what the page reads while it runs, when it is done, and when it was cut off."""

from __future__ import annotations

import functools
import re
from datetime import timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner

from home import preflight_command
from home.cli import main
from home.dns_judges import Outcome
from home.pair_state import Stage
from home.preflight import Looked, Step
from home.preflight_job import Preflight, read_preflight, run
from home.preflight_world import Flight
from home.seen import LONGEST, PREFLIGHT
from home.store import Store, StoreError
from tests.unit.page_samples import NOW, pairing

_UNITS = Path(__file__).resolve().parents[2] / "components/page/units"


def _looked(outcome: Outcome, step: Step = Step.PTR) -> Looked:
    return Looked(step, "PTR record", outcome, "found", "shows", "do this")


def _state(path: Path) -> Preflight:
    found = read_preflight(path)
    assert found
    return found


def test_it_is_seen_to_run_and_what_it_has_found_stays(tmp_path: Path) -> None:
    path = tmp_path / "preflight.json"
    assert read_preflight(path) is None
    seen: list[Preflight] = []

    def look() -> Flight:
        seen.append(_state(path))
        return Flight((_looked(Outcome.GOOD), _looked(Outcome.WRONG)), ())

    made = run(path, look, "b", "r", lambda: 100.0, lambda: NOW)
    assert seen[0].runs("b", 130.0)
    assert not seen[0].passed
    assert _state(path) == made
    assert (made.outcome, made.passed, made.finished_at, made.relay) == (Outcome.WRONG, False, NOW, "r")
    assert not made.runs("b", 130.0)
    assert [step.remedy for step in made.steps] == ["do this", "do this"]


def test_what_cannot_be_done_is_told_in_words(tmp_path: Path) -> None:
    def look() -> Flight:
        raise StoreError("accounts.json is damaged")

    made = run(tmp_path / "p.json", look, "b", "r", lambda: 100.0, lambda: NOW)
    assert (made.error, made.passed, made.outcome) == ("accounts.json is damaged", False, None)


@pytest.mark.parametrize(
    ("outcomes", "unknown", "passed"),
    [
        ([Outcome.GOOD], (), True),
        ([Outcome.GOOD, Outcome.WARNING], (), True),
        ([Outcome.GOOD, Outcome.UNKNOWN], (), False),
        ([Outcome.GOOD], ("no address of the relay is known",), False),
        ([], (), False),
    ],
)
def test_only_what_was_seen_to_work_has_passed(
    tmp_path: Path, outcomes: list[Outcome], unknown: tuple[str, ...], passed: bool
) -> None:
    flight = Flight(tuple(map(_looked, outcomes)), unknown)
    assert run(tmp_path / "p.json", lambda: flight, "b", "r", lambda: 0.0, lambda: NOW).passed is passed


@pytest.mark.parametrize(
    ("outcome", "passed"), [(Outcome.UNKNOWN, True), (Outcome.WARNING, True), (Outcome.WRONG, False)]
)
def test_a_block_list_that_answers_nobody_keeps_no_preflight_from_passing(outcome: Outcome, passed: bool) -> None:
    """Some never answer some networks: its owner is told to do nothing, and could do nothing."""
    flight = Flight((_looked(Outcome.GOOD), _looked(outcome, Step.BLOCK_LIST)), ())
    assert (flight.outcome in {Outcome.GOOD, Outcome.WARNING}) is passed


@pytest.mark.parametrize(("boot", "later", "runs"), [("b", 60, True), ("b", LONGEST, False), ("other", 60, False)])
def test_one_that_was_cut_off_does_not_run(boot: str, later: float, runs: bool) -> None:
    state = Preflight(boot="b", began=100.0, began_at=NOW - timedelta(days=1))
    assert state.runs(boot, 100.0 + later) is runs


def test_systemd_ends_it_when_the_page_takes_it_for_cut_off() -> None:
    unit = (_UNITS / "darkpipe-preflight.service").read_text()
    assert re.findall(r"^TimeoutStartSec=(\d+)s$", unit, re.MULTILINE) == [f"{LONGEST:.0f}"]


@pytest.mark.parametrize("unit", ["darkpipe-desk", "darkpipe-hand@", "darkpipe-preflight"])
def test_who_reads_or_writes_the_file_knows_which_start_it_is(unit: str) -> None:
    assert "\nEnvironment=DARKPIPE_BOOT=%b\n" in (_UNITS / f"{unit}.service").read_text()


def test_a_file_of_another_version_is_none(tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text('{"format": 2}')
    assert read_preflight(tmp_path / "p.json") is None


def test_a_command_keeps_what_it_has_found_for_status_and_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flight = Flight((_looked(Outcome.GOOD),), ())
    monkeypatch.setattr(Store, "__init__", functools.partialmethod(Store.__init__, data=tmp_path))
    monkeypatch.setattr(preflight_command, "fly", lambda *_: flight)
    monkeypatch.setattr(preflight_command, "read_told", lambda: pairing(Stage.PAIRED))
    kept = tmp_path / PREFLIGHT
    assert CliRunner().invoke(main, ["preflight"]).exit_code == 0
    assert not kept.exists(), "a container has no page"
    kept.parent.mkdir()
    for other in (["--target", "example.net"], ["--address", "203.0.113.7"]):
        assert CliRunner().invoke(main, ["preflight", *other]).exit_code == 0
        assert not kept.exists(), "what was only tried says nothing of this device's relay"
    assert CliRunner().invoke(main, ["preflight"]).exit_code == 0
    found = _state(kept)
    assert (found.passed, found.steps, found.runs("b", 1.0)) == (True, flight.looked, False)
    assert found.counts(pairing(Stage.PAIRED))
