"""The simulation finds bugs that are planted: what it does not find would prove nothing."""

from __future__ import annotations

import pytest

from tests.simulation.run import simulate
from tests.simulation.world import Plant

_SEEDS = range(8)


@pytest.mark.parametrize("plant", sorted(set(Plant) - {Plant.NONE}))
def test_a_planted_bug_is_found(plant: Plant) -> None:
    assert any(not simulate(150, 75, seed, plant).good for seed in _SEEDS)
