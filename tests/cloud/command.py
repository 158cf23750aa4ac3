"""`./dev test relay`: a relay of each Debian version, made twice."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from tests.cloud.root import Suite
from tests.tiers import run_tiers, summary

_SUITES = [suite.value for suite in Suite]


@click.command()
@click.option("--suite", "suites", multiple=True, type=click.Choice(_SUITES), help="Only this Debian; repeatable.")
def relay(suites: Sequence[str]) -> None:
    """Have cloud-init make a relay of an emulated cloud machine, and do it once more; for each Debian version.

    Takes five to ten minutes each, nearly all of it for the emulation; the images tier does it once, for the newest.

    \b
    Examples:
      ./dev test relay
      ./dev test relay --suite bookworm
    """
    failed = False
    for suite in suites or _SUITES:
        click.echo(f"\n=== {suite} ===")
        options = ("-k", "test_relay_vps", f"--relay-suite={suite}", "--relay-again")
        outcomes = run_tiers(["images"], options)
        click.echo(summary(outcomes, ["images"]))
        failed = failed or any(outcome.failed or not outcome.passed for outcome in outcomes)
    sys.exit(1 if failed else 0)
