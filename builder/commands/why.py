"""`./darkpipe why`: why a stage was made, or would be."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from builder.commands.elsewhere import run_elsewhere
from builder.workshop import Stage

if TYPE_CHECKING:
    from builder.cache import Entry
    from builder.why import Verdict


@click.command()
@click.argument("stage", type=click.Choice([stage.value for stage in Stage]))
@click.argument("site", required=False, type=click.Path(path_type=Path))
@click.option("--profile", default="x64", show_default=True, metavar="NAME", help="Platform to build for.")
@click.option(
    "--lock",
    "lock_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="As `build --lock FILE` would do it.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON on standard output.")
def why(stage: str, site: Path | None, profile: str, lock_file: Path | None, as_json: bool) -> None:
    """Tell why a stage was made, or would be: which files, packages and settings differ from the last time.

    The stages are tools, packages, project, tar, root, boot and image. With a SITE file, `image` compares its keys too.
    Nothing is made and nothing fetched.

    A look at Debian's archive holds for 24 hours. After that, or with `build --refresh`, a build looks again, which
    takes seconds, and makes the package layer anew only if Debian has published something. The build tools hold for 30
    days.

    \b
    Examples:
      ./darkpipe why packages
      ./darkpipe why image my-site.yaml
      ./darkpipe why packages --lock release.lock
      ./darkpipe why root --json
    """
    from builder.archive import Archive
    from builder.build import SOURCE
    from builder.cache import Cache
    from builder.lock import read_lock
    from builder.profile import find_profile
    from builder.why import explain
    from model.document import read_site

    wanted = read_site(site) if site else None
    run_elsewhere(stage, site, profile=profile, lock=lock_file, json=as_json)
    chosen = find_profile(SOURCE / "profiles", profile)
    lock = read_lock(lock_file) if lock_file else None
    verdict = explain(Cache.default(), Archive.from_environment(), chosen, wanted, lock)[Stage(stage)]
    click.echo(json.dumps(_as_data(verdict), indent=1) if as_json else in_words(verdict))


def in_words(verdict: Verdict) -> str:
    """Put a verdict into lines for people."""
    from builder.why import Fate

    label = verdict.stage.label
    if verdict.fate is Fate.REUSED:
        assert verdict.entry is not None  # what is reused is there
        lines = [f"{label}: nothing has changed; what was made {_when(verdict.entry)} is used again."]
        if verdict.before:
            lines.append(f"It was made because of what was new against that of {_when(verdict.before)}:")
        else:
            lines.append("It was made because there was none before.")
    elif verdict.fate is Fate.FOLLOWS:
        names = " and ".join(f"the {cause.label.lower()}" for cause in verdict.causes)
        commands = ", ".join(f"`./darkpipe why {cause}`" for cause in verdict.causes)
        lines = [f"{label}: depends on what comes of {names}, which the next build makes; see {commands}."]
    elif verdict.before is None:
        lines = [f"{label}: the next build makes it, since it was never made here before."]
    elif verdict.stage is Stage.IMAGE:
        lines = [f"{label}: every build puts it together. Since {_when(verdict.before)}:"]
    else:
        lines = [f"{label}: the next build makes it, because since {_when(verdict.before)}:"]
    if verdict.before:
        lines += [f"  {reason}" for reason in verdict.reasons or ("nothing has changed",)]
    if verdict.note:
        lines.append(verdict.note)
    return "\n".join(lines)


def _when(entry: Entry) -> str:
    return datetime.fromtimestamp(entry.made).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _as_data(verdict: Verdict) -> dict[str, object]:
    data = asdict(verdict)
    for key in ("entry", "before"):
        entry: Entry | None = getattr(verdict, key)
        data[key] = entry.identifier if entry else None
    return data
