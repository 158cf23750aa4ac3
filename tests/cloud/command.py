"""`./dev test relay`: a relay of each Debian version, made twice. `./dev test pair`: one with its home.

`./dev test evening`: the same two, set up in a browser.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from model.site import Transport
from tests.cloud.root import Architecture, Suite
from tests.tiers import run_tiers, summary

_SUITES = [suite.value for suite in Suite]
_ARCHITECTURES = [architecture.value for architecture in Architecture]


@click.command()
@click.option("--suite", "suites", multiple=True, type=click.Choice(_SUITES), help="Only this Debian; repeatable.")
@click.option("--architecture", default=Architecture.AMD64.value, type=click.Choice(_ARCHITECTURES), help="Processor.")
def relay(suites: Sequence[str], architecture: str) -> None:
    """Have cloud-init make a relay of an emulated cloud machine, and do it once more; for each Debian version.

    Takes five to ten minutes each, nearly all of it for the emulation.

    \b
    Examples:
      ./dev test relay
      ./dev test relay --suite bookworm
      ./dev test relay --architecture arm64
    """
    failed = False
    for suite in suites or _SUITES:
        click.echo(f"\n=== {suite}, {architecture} ===")
        chosen = (f"--relay-suite={suite}", f"--relay-architecture={architecture}")
        options = ("-k", "test_relay_vps", *chosen, "--relay-again")
        outcomes = run_tiers(["images"], options)
        click.echo(summary(outcomes, ["images"]))
        failed = failed or any(outcome.failed or not outcome.passed for outcome in outcomes)
    sys.exit(1 if failed else 0)


@click.command()
@click.option("--suite", default=Suite.TRIXIE.value, type=click.Choice(_SUITES), help="Debian version of the relay.")
@click.option(
    "--architecture",
    default=Architecture.AMD64.value,
    type=click.Choice(_ARCHITECTURES),
    help="Processor of the relay.",
)
@click.option("--home", default="x64", type=click.Choice(["x64", "raspberrypi"]), help="Profile of the home.")
@click.option(
    "--transport",
    default="wireguard",
    type=click.Choice([one.value for one in Transport]),
    help="The tunnel between them.",
)
def pair(suite: str, architecture: str, home: str, transport: str) -> None:
    """Let an emulated relay, made by cloud-init, and an emulated home find each other; cut both off, destroy the relay.

    Takes half an hour or more, nearly all of it for the emulation.

    \b
    Examples:
      ./dev test pair
      ./dev test pair --suite bookworm
      ./dev test pair --architecture arm64 --home raspberrypi
      ./dev test pair --transport mtls
    """
    chosen = (
        f"--relay-suite={suite}",
        f"--relay-architecture={architecture}",
        f"--home-profile={home}",
        f"--transport={transport}",
    )
    outcomes = run_tiers(["images"], ("-k", "test_pair", "--pair", *chosen))
    click.echo(summary(outcomes, ["images"]))
    sys.exit(1 if any(outcome.failed or not outcome.passed for outcome in outcomes) else 0)


@click.command()
@click.option("--home", default="x64", type=click.Choice(["x64", "raspberrypi"]), help="Profile of the home.")
@click.option("--seeded", is_flag=True, help="From a seed that asks nothing: nobody opens the page.")
def evening(home: str, seeded: bool) -> None:
    """Set up an emulated device in a browser, with a relay, names in DNS and somebody who writes and is written to.

    Takes half an hour on a quiet computer, longer with the Raspberry Pi. Pictures lie in out/screenshots.

    \b
    Examples:
      ./dev test evening
      ./dev test evening --seeded
      ./dev test evening --home raspberrypi
    """
    chosen = (f"--home-profile={home}", *(["--seeded"] if seeded else []))
    outcomes = run_tiers(["images"], ("-k", "test_evening", "--evening", "-x", *chosen))
    click.echo(summary(outcomes, ["images"]))
    sys.exit(1 if any(outcome.failed or not outcome.passed for outcome in outcomes) else 0)
