"""The developers' command line, `./dev`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click

from tests.cloud.command import evening, pair, relay
from tests.foreign.command import foreign
from tests.fresh.command import fresh
from tests.fuzz.command import fuzz
from tests.lint import lint, reformat
from tests.locks import make_locks
from tests.power.command import power
from tests.reproducible.command import reproducible
from tests.simulation.command import simulation
from tests.tiers import TIERS, run_tiers, summary

REPOSITORY = Path(__file__).resolve().parent.parent
OWN_TESTS = ("evening", "foreign", "fresh", "pair", "relay", "reproducible")
"""What `./dev test` runs by commands of their own, with their own options."""


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--yes", is_flag=True, expose_value=False, help="Install what is missing without asking.")
def dev() -> None:
    """DarkPipe's tools for developers.

    \b
    Examples:
      ./dev lint && ./dev test
      ./dev test unit machine
      ./dev format
    """


@dev.command("test")
@click.argument("tiers", nargs=-1, type=click.Choice(TIERS), metavar="[TIER]... [-- PYTEST OPTION...]")
@click.pass_obj
def run_tests(pytest_arguments: tuple[str, ...], tiers: tuple[str, ...]) -> None:
    """Run the tests: all tiers in the order of their cost, or those that are named.

    A tier is a folder below tests/. The tests end after the first tier that fails. `./dev test fresh` is another
    thing: both commands of the README in fresh Debian systems; `./dev test reproducible` and `./dev test foreign`
    compare package layers; `./dev test relay` makes relays of several Debian versions; `./dev test pair` lets a relay
    and its home find each other; `./dev test evening` is the whole first evening, in a browser.

    \b
    Examples:
      ./dev test
      ./dev test unit
      ./dev test images -- -k first_start -x
      ./dev test fresh --help
      ./dev test reproducible --help
      ./dev test foreign --help
      ./dev test relay --help
      ./dev test pair --help
      ./dev test evening --help
    """
    chosen = [name for name in TIERS if not tiers or name in tiers]
    outcomes = run_tiers(chosen, pytest_arguments)
    click.echo(summary(outcomes, chosen))
    if any(outcome.failed for outcome in outcomes) or not any(outcome.passed for outcome in outcomes):
        sys.exit(1)


@dev.command("lint")
def run_lint() -> None:
    """Check the code without running it: ruff, mypy, shellcheck, and the lock files against pyproject.toml."""
    sys.exit(0 if lint() else 1)


@dev.command("format")
def run_format() -> None:
    """Lay out the Python code and sort its imports."""
    sys.exit(0 if reformat() else 1)


@dev.command("bench")
@click.argument("names", nargs=-1, metavar="[NAME]...")
def run_benchmarks(names: tuple[str, ...]) -> None:
    """Run benchmarks/*.py, or those that are named, one after the other.

    \b
    Examples:
      ./dev bench
      ./dev bench build
    """
    found = {path.stem: path for path in sorted((REPOSITORY / "benchmarks").glob("*.py")) if path.stem != "__init__"}
    if unknown := [name for name in names if name not in found]:
        raise click.UsageError(f"no benchmark {unknown[0]}; there are: {', '.join(found) or 'none'}")
    if not found:
        raise click.ClickException("benchmarks/ holds no program")
    failed = []
    for name in names or found:
        click.echo(f"=== {name} ===")
        if subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], cwd=REPOSITORY, check=False).returncode != 0:
            failed.append(name)
    if failed:
        raise click.ClickException(f"failed: {', '.join(failed)}")


@dev.command("lock")
@click.option("--upgrade", is_flag=True, help="Take the newest versions, rather than keep those that still fit.")
def run_lock(upgrade: bool) -> None:
    """Make requirements.lock, requirements-dev.lock and wheels.lock from pyproject.toml."""
    make_locks(upgrade=upgrade)


dev.add_command(evening)
dev.add_command(foreign)
dev.add_command(fresh)
dev.add_command(fuzz)
dev.add_command(pair)
dev.add_command(power)
dev.add_command(relay)
dev.add_command(reproducible)
dev.add_command(simulation)


def main() -> None:
    """Run `./dev`; what follows `--` is for pytest."""
    ours, pytest_arguments = sys.argv[1:], []
    if "--" in ours:
        cut = ours.index("--")
        ours, pytest_arguments = ours[:cut], ours[cut + 1 :]
    # The launcher takes --yes anywhere on the line; here it means nothing more.
    ours = [argument for argument in ours if argument != "--yes"]
    if ours[:2] in [["test", name] for name in OWN_TESTS]:
        ours = ours[1:]
    dev.main(ours, prog_name="dev", obj=tuple(pytest_arguments))


if __name__ == "__main__":
    main()
