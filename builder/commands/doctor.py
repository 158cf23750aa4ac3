"""`./darkpipe doctor`: can this computer build, and if not, why."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import click


@click.command()
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("out"),
    show_default=True,
    metavar="PARENT",
    help="Folder in which results will be made.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the findings as a JSON list.")
def doctor(output: Path, as_json: bool) -> None:
    """Say whether this computer can build images, and what to do where it cannot.

    Each line is fine, a warning (it works, but worse) or a problem (a build would fail) with its remedy. Changes
    nothing. Exit status: 0, or 1 when there is a problem.

    \b
    Examples:
      ./darkpipe doctor
      ./darkpipe doctor --json | python3 -m json.tool
    """
    from builder.archive import Archive
    from builder.cache import Cache
    from builder.doctor import Verdict, examine
    from builder.host import read_host
    from builder.sandbox import remove_tree
    from builder.where import builds_here

    if builds_here():
        cache = Cache(Cache.default().root, remove_tree)
        findings = examine(read_host(cache, Archive.from_environment(), output))
    else:
        from builder.container_doctor import examine_engine

        findings = tuple(examine_engine())
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(finding) for finding in findings], indent=1))
    else:
        colours = {Verdict.FINE: "green", Verdict.WARNING: "yellow", Verdict.PROBLEM: "red"}
        for finding in findings:
            mark = click.style(f"{finding.verdict:8}", fg=colours[finding.verdict])
            click.echo(f"{mark} {finding.subject}: {finding.found}")
            if finding.remedy:
                click.echo(f"{'':8} → {finding.remedy}")
    sys.exit(any(finding.verdict is Verdict.PROBLEM for finding in findings))
