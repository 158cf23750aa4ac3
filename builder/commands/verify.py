"""`./darkpipe verify` and `./darkpipe sign`: a result's folder and its signature."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from builder.commands.elsewhere import run_elsewhere

_FOLDER = click.Path(path_type=Path, exists=True, file_okay=False)
_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)


@click.command()
@click.argument("folder", type=_FOLDER)
@click.option("--allowed-signers", type=_FILE, metavar="FILE", help="Who may have signed, as ssh-keygen(1) reads it.")
def verify(folder: Path, allowed_signers: Path | None) -> None:
    """Check everything that a FOLDER of `./darkpipe build` says, and say what that proves.

    Checks the sums, the signature when --allowed-signers is given, the block map and the partitions against the image,
    the root file system against the root hash in kernel and manifest, and lock and bill of materials against the
    packages that are really installed. Exit status: 0, or 1 when anything is wrong.

    \b
    Examples:
      ./darkpipe verify out/darkpipe-…
      ./darkpipe verify out/darkpipe-…  --allowed-signers release-signers
    """
    from builder.archive import Archive
    from builder.cache import Cache
    from builder.progress import Stages
    from builder.sandbox import check_namespaces, remove_tree
    from builder.tools import BUILD_TOOLS, open_tools
    from builder.verify import PROVES, safe_line
    from builder.verify import verify as check

    run_elsewhere(folder, allowed_signers=allowed_signers)
    check_namespaces()
    cache = Cache(Cache.default().root, remove_tree)
    tools = open_tools(BUILD_TOOLS, cache, Archive.from_environment(), Stages())
    good = True
    with cache.workspace() as work:
        for finding in check(folder, tools, work, allowed_signers):
            good &= finding.good
            mark = click.style("good" if finding.good else "BAD ", fg="green" if finding.good else "red")
            click.echo(f"{mark} {safe_line(finding)}")
    click.echo(f"\n{PROVES}" if good else "\nDo not use this folder.")
    sys.exit(not good)


@click.command()
@click.argument("folder", type=_FOLDER)
@click.option(
    "--key", type=_FILE, required=True, metavar="FILE", help="An SSH key; the public part of one in an agent."
)
def sign(folder: Path, key: Path) -> None:
    """Sign a FOLDER of `./darkpipe build`: SHA256SUMS.sig appears in it.

    The sums are checked first. docs/releases.md says how to keep the key.

    \b
    Example:
      ./darkpipe sign out/darkpipe-…  --key ~/.ssh/darkpipe-release
    """
    from builder.sums import sign as sign_sums

    click.echo(sign_sums(folder, key))
