"""`./dev power`: power cuts at as many points as there is time for."""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click

from stack.passwords import generate_password, hash_password
from tests.images.conftest import SITE
from tests.power.recording import Phase, Recording, record
from tests.power.trial import Cut, choose_cuts, planted_cut, run_trial
from tests.tiers import clock

_REPOSITORY = Path(__file__).resolve().parents[2]


@click.command()
@click.option("--points", type=click.IntRange(3), default=21, show_default=True, help="How many cuts.")
@click.option("--seed", type=int, help="Of an earlier run, to make the same choice.")
@click.option("--scratch", type=click.Path(path_type=Path, file_okay=False), help="Folder for disks (20 GB).")
def power(points: int, seed: int | None, scratch: Path | None) -> None:
    """Cut the power at points of a device's life, and see what it makes of it.

    The device is started for the first time, takes letters, gets another configuration, and takes letters again, while
    all that it writes to its disk is logged. Then disks are made as a cut at each point would leave them, and started.
    Points are spread evenly over first start, apply and delivery. At last comes one that must be found: letters that
    were taken while Postfix did not fsync.

    \b
    Examples:
      ./dev power
      ./dev power --points 60
    """
    seed = random.SystemRandom().randrange(2**32) if seed is None else seed
    started = time.monotonic()
    click.echo(f"seed {seed}")
    with tempfile.TemporaryDirectory(prefix="darkpipe-power-", dir=scratch) as folder:
        failed = _run(Path(folder), points, random.Random(seed))
    click.echo(f"{points - failed} of {points} cuts survived; {clock(time.monotonic() - started)}")
    if failed:
        sys.exit(1)


def _run(scratch: Path, points: int, rng: random.Random) -> int:
    password = generate_password()
    recording = record(_build(scratch, password), scratch, password, rng, click.echo)
    failed = 0
    phases = list(Phase)
    for number, phase in enumerate(phases):
        share = points // len(phases) + (number < points % len(phases))
        for cut in choose_cuts(recording, phase, share, rng):
            wrong, seconds = run_trial(recording, cut, recording.letters, scratch / "cut.img", password)
            failed += bool(wrong)
            click.echo(
                f"{phase:12} {cut!s:24} {_counted(recording, cut)} {seconds:5.0f} s  {'; '.join(wrong) or 'good'}"
            )
    wrong, seconds = run_trial(
        recording, planted_cut(recording), recording.without_fsync, scratch / "cut.img", password
    )
    click.echo(f"without fsync: {seconds:5.0f} s  {'; '.join(wrong) or 'NOT FOUND'}")
    if not wrong:
        raise click.ClickException("the planted bug was not found: the other results say nothing")
    return failed


def _counted(recording: Recording, cut: Cut) -> str:
    letters = recording.acknowledged(recording.letters, cut.position)
    in_the_air = cut.position - recording.log.last_flush(cut.position)
    return f"{len(letters)} letters taken, {in_the_air:4} writes in the air"


def _build(scratch: Path, password: str) -> Path:
    site = scratch / "site.yaml"
    site.write_text(SITE.format(hash=hash_password(password)), encoding="utf-8")
    command = [str(_REPOSITORY / "darkpipe"), "--yes", "build", str(site), "--output", str(scratch / "out")]
    built = subprocess.run(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True, check=True)
    return Path(built.stdout.splitlines()[-1])
