"""`./dev simulate`."""

from __future__ import annotations

import random
import sys

import click

from tests.simulation.run import simulate
from tests.simulation.world import Plant


@click.command("simulate")
@click.option("--messages", type=click.IntRange(1), default=10_000, show_default=True)
@click.option("--faults", type=click.IntRange(0), default=1_000, show_default=True)
@click.option("--seed", type=int, help="Repeat a run; without it, one is chosen and told.")
@click.option("--plant", type=click.Choice([str(plant) for plant in Plant]), default="nothing", show_default=True)
def simulation(messages: int, faults: int, seed: int | None, plant: str) -> None:
    """Send messages from senders by the relay's queue and home's drain to the mailbox, through faults, and count.

    The faults: the relay and home are switched off before or after a call of the disk or of the network, by a kill or
    by a power cut that forgets what was not synced; calls fail; the disk has neither room nor inodes; requests and
    answers get lost; the clock jumps; the S3 store fails and lies. The code is the real one; the mail server behind the
    drain is a list. With --plant a bug is planted, which must be found.

    \b
    Examples:
      ./dev simulate --messages 10000 --faults 1000
      ./dev simulate --messages 500 --faults 200 --seed 2 --plant no-fsync
    """
    chosen = random.SystemRandom().randrange(2**32) if seed is None else seed
    click.echo(f"seed {chosen}")
    outcome = simulate(messages, faults, chosen, Plant(plant), click.echo)
    for what, count in sorted(outcome.faults.items()):
        click.echo(f"{count:6} {what}")
    click.echo(str(outcome))
    if Plant(plant) is Plant.NONE:
        sys.exit(0 if outcome.good else 1)
    click.echo("the planted bug was not found" if outcome.good else "the planted bug was found")
    sys.exit(1 if outcome.good else 0)
