"""Mail through faults, in small; `./dev simulate` does it at length."""

from __future__ import annotations

from tests.simulation.run import simulate


def test_nothing_is_lost_and_nothing_repeated_but_what_rfc_1047_excuses() -> None:
    outcome = simulate(150, 60, seed=1)
    assert outcome.good, f"{outcome}: {outcome.lost} {outcome.repeated} {outcome.damaged}"
    assert outcome.faults.total() >= 60
    assert {name.partition(":")[0] for name in outcome.faults} == {"relay", "home", "network", "store", "clock"}
