"""`./dev test fresh`: which systems, which commands, and what came of them."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from tests.fresh.system import USERS, System, fresh_system
from tests.tiers import clock

_SUITES = ("bookworm", "trixie")
_SECOND_CALL = 1.0
"""Seconds that a later call of the launcher may take: well under this is promised."""


class StepError(Exception):
    """A command did not do what the README says; the text tells how."""


@dataclass(frozen=True)
class Step:
    """A command of the README.

    Args:
        name: a verb for the table.
        command: what is called in the clone.
        timeout: seconds after which it is ended.
        check: looks at what it did; gets the system and its standard output.
    """

    name: str
    command: tuple[str, ...]
    timeout: float
    check: Callable[[System, str], None]


def _check_second_call(system: System, output: str) -> None:
    if not output.startswith("darkpipe ") or output.count("\n") != 1:
        raise StepError(f"launch: standard output is not the version alone: {output!r}")
    with tempfile.TemporaryFile() as said:
        started = time.monotonic()
        system.run(("./darkpipe", "--version"), said, said, _SECOND_CALL * 60)
        seconds = time.monotonic() - started
        said.seek(0)
        if said.read().decode() != output:
            raise StepError("launch: the second call says more than the version")
    click.echo(f"  the second call took {seconds:.2f} s")
    if seconds > _SECOND_CALL:
        raise StepError(f"launch: the second call took {seconds:.2f} s")


def _check_result(system: System, output: str) -> None:
    folder = system.inside(str(Path(system.checkout) / (output.splitlines() or ["missing"])[-1]))
    if not (folder / "SHA256SUMS").is_file():
        raise StepError(f"build: the last line of standard output names no folder with SHA256SUMS: {output!r}")
    subprocess.run(["sha256sum", "--quiet", "--check", "SHA256SUMS"], cwd=folder, check=True)


def _check_tests(system: System, output: str) -> None:
    del system
    if " 0 failed" not in (output.splitlines() or [""])[-1]:
        raise StepError("test: the last line does not tell that 0 failed")


STEPS = {
    step.name: step
    for step in (
        Step("launch", ("./darkpipe", "--yes", "--version"), 900, _check_second_call),
        Step("build", ("./darkpipe", "--yes", "build", "examples/home.yaml"), 2400, _check_result),
        Step("test", ("./dev", "test"), 4800, _check_tests),
    )
}
"""The steps by name, in their order; the last two are the README's commands."""


@click.command()
@click.option("--suite", "suites", multiple=True, type=click.Choice(_SUITES), help="Only this Debian; repeatable.")
@click.option("--as", "users", multiple=True, type=click.Choice(USERS), help="Only as this user; repeatable.")
@click.option("--step", "names", multiple=True, type=click.Choice(list(STEPS)), help="Only this step; repeatable.")
@click.option("--uncommitted", is_flag=True, help="Take the files as they are, rather than HEAD.")
def fresh(suites: Sequence[str], users: Sequence[str], names: Sequence[str], uncommitted: bool) -> None:
    """Try the README's commands in fresh Debian systems, as root and as an ordinary user with sudo.

    All systems must build the same image. Needs root, an hour or two for everything, and 10 GB in /var/tmp or
    $DARKPIPE_FRESH_DIR, where the logs stay.

    \b
    Examples:
      ./dev test fresh
      ./dev test fresh --suite bookworm --as user --step launch --step build
    """
    if os.geteuid() != 0:
        raise click.ClickException("this needs root: it makes whole Debian systems and enters them")
    parent = Path(os.environ.get("DARKPIPE_FRESH_DIR", "/var/tmp/darkpipe-fresh"))
    parent.mkdir(parents=True, exist_ok=True)
    logs = Path(tempfile.mkdtemp(prefix=time.strftime("logs-%Y%m%d-%H%M%S-"), dir=parent))
    steps = [step for name, step in STEPS.items() if not names or name in names]
    good = [
        _try_system(parent, logs / f"{suite}-{user}", suite, user, steps, uncommitted=uncommitted)
        for suite in suites or _SUITES
        for user in users or USERS
    ]
    if len(images := built_images(logs)) > 1:
        good.append(False)
        click.echo(f"\nDIFFERENT images from different systems, or Debian has published meanwhile: {', '.join(images)}")
    click.echo(f"\nThe logs are in {logs}.")
    click.echo(f"{good.count(True)} passed, {good.count(False)} failed")
    sys.exit(0 if all(good) else 1)


def built_images(logs: Path) -> list[str]:
    """Name the images of a run, each by its result's folder, which holds the content id; one when all are equal."""
    outputs = [path.read_text(encoding="utf-8").splitlines() for path in logs.glob("*.build.out")]
    return sorted({Path(lines[-1]).name for lines in outputs if lines})


def _try_system(parent: Path, log: Path, suite: str, user: str, steps: Sequence[Step], *, uncommitted: bool) -> bool:
    """Run the steps in one new system until one fails; True when none does."""
    click.echo(f"\n=== {suite}, as {user} ===")
    with tempfile.TemporaryDirectory(dir=parent, prefix="system-") as work:
        # Others than root have to pass through on the way to the system's files.
        Path(work).chmod(0o755)
        started = time.monotonic()
        try:
            with (
                log.with_suffix(".make.log").open("wb") as file,
                fresh_system(Path(work) / "root", suite, user, file, uncommitted=uncommitted) as system,
            ):
                _tell("make the system", started, "good")
                for step in steps:
                    started = time.monotonic()
                    _take(step, system, log)
                    _tell(" ".join(step.command), started, "good")
        except (StepError, subprocess.CalledProcessError) as error:
            _tell("FAILED", started, str(error))
            return False
    return True


def _take(step: Step, system: System, log: Path) -> None:
    output, messages = log.with_suffix(f".{step.name}.out"), log.with_suffix(f".{step.name}.log")
    with output.open("wb") as stdout, messages.open("wb") as stderr:
        try:
            status = system.run(step.command, stdout, stderr, step.timeout)
        except subprocess.TimeoutExpired as error:
            raise StepError(f"{step.name}: not done after {clock(step.timeout)}; see {messages}") from error
    if status != 0:
        raise StepError(f"{step.name}: exit status {status}; see {messages} and {output}")
    step.check(system, output.read_text(encoding="utf-8", errors="replace"))


def _tell(what: str, started: float, result: str) -> None:
    click.echo(f"  {what:45} {clock(time.monotonic() - started):>14}  {result}")
