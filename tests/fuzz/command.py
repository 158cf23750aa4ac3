"""`./dev fuzz`."""

from __future__ import annotations

import hashlib
import importlib.util
import subprocess
import sys
import tempfile
from pathlib import Path

import click

from tests.fuzz.targets import SEEDS, TARGETS

_REPOSITORY = Path(__file__).resolve().parents[2]


@click.command("fuzz")
@click.argument("target", type=click.Choice(sorted(TARGETS)))
@click.option("--seconds", type=click.IntRange(1), default=60, show_default=True)
@click.option("--seed", type=int, default=0, help="Of the choice; 0 for another one each time.")
def fuzz(target: str, seconds: int, seed: int) -> None:
    """Fuzz the relay's SMTP core (smtp), the control plane (api) or the formats of items (item), led by coverage.

    What makes the code fail is written to a file that is named, and can be given to the target again.

    \b
    Examples:
      ./dev fuzz smtp --seconds 600
      ./dev fuzz item
    """
    if importlib.util.find_spec("atheris") is None:
        raise click.ClickException("atheris, the fuzzer, is there for amd64 only")
    with tempfile.TemporaryDirectory(prefix="darkpipe-corpus-") as corpus:
        for octets in SEEDS[target]:
            (Path(corpus) / hashlib.sha256(octets).hexdigest()[:16]).write_bytes(octets)
        options = [f"-max_total_time={seconds}", "-max_len=8192", "-timeout=20", "-rss_limit_mb=1024"]
        if seed:
            options.append(f"-seed={seed}")
        command = [sys.executable, "-m", "tests.fuzz.run", target, *options, corpus]
        sys.exit(subprocess.run(command, cwd=_REPOSITORY, check=False).returncode)
