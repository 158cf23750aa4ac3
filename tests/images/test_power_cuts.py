"""Power cuts at seeded points of a device's life; `./dev power` takes more of them.

What must hold after each: the device comes up, its configuration is the old or the new one, whole, and every letter
that was acknowledged before is there, byte for byte.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.images.conftest import PASSWORD
from tests.power.recording import Phase, Recording, record
from tests.power.trial import choose_cuts, planted_cut, run_trial

SEED_VARIABLE = "DARKPIPE_POWER_SEED"
"""Environment variable with the seed of an earlier run, to make the same choice."""


@pytest.fixture(scope="module")
def rng() -> random.Random:
    """Makes letters and chooses cuts; its seed is printed when a test fails."""
    seed = int(os.environ.get(SEED_VARIABLE) or random.SystemRandom().randrange(2**32))
    print(f"{SEED_VARIABLE}={seed}")
    return random.Random(seed)


@pytest.fixture(scope="module")
def recording(image: Path, scratch: Path, rng: random.Random) -> Recording:
    """A life of a device, up to a Postfix whose fsync does nothing."""
    folder = scratch / "power"
    folder.mkdir()
    return record(image, folder, PASSWORD, rng, print)


@pytest.mark.parametrize("phase", list(Phase))
def test_cut(recording: Recording, rng: random.Random, phase: Phase, scratch: Path) -> None:
    """Nothing acknowledged is lost."""
    (cut,) = choose_cuts(recording, phase, 1, rng)
    print(f"the power goes at {cut}")
    wrong, _ = run_trial(recording, cut, recording.letters, scratch / "power/cut.img", PASSWORD)
    assert wrong == []


def test_missing_fsync_is_found(recording: Recording, scratch: Path) -> None:
    """The same check reports letters lost that a Postfix has taken whose fsync does nothing."""
    disk = scratch / "power/planted.img"
    wrong, _ = run_trial(recording, planted_cut(recording), recording.without_fsync, disk, PASSWORD)
    disk.unlink(missing_ok=True)
    assert [text for text in wrong if "was acknowledged and is" in text], wrong
