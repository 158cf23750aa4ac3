"""`./darkpipe diff`: where two images differ."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from builder.commands.elsewhere import run_elsewhere
from builder.errors import BuildError

_TROUBLE = 2
"""As with diff(1): 0 for equal, 1 for different, 2 for trouble."""


@click.command()
@click.argument("first", type=click.Path(path_type=Path, exists=True))
@click.argument("second", type=click.Path(path_type=Path, exists=True))
@click.option("--json", "as_json", is_flag=True, help="Print JSON on standard output.")
def diff(first: Path, second: Path, as_json: bool) -> None:
    """Name every file and byte range in which two results or images differ.

    FIRST and SECOND are folders that `./darkpipe build` has made, or images (.img, .img.zst, .img.xz). What differs is
    named by what lies there: fields of the partition table, files of the boot partition and sections of its kernel
    image, files of the root with mode, owner, time and attributes, the hash tree, and the space between. Exit status: 0
    when they are equal to the byte, 1 when they differ, 2 when they cannot be compared.

    \b
    Examples:
      ./darkpipe diff out/darkpipe-0.1.0-x64-…  /mnt/other/darkpipe-0.1.0-x64-…
      ./darkpipe diff one.img.zst two.img.zst && echo equal
    """
    from builder.archive import Archive
    from builder.cache import Cache
    from builder.compare.folder import compare
    from builder.progress import Stages
    from builder.sandbox import check_namespaces, remove_tree
    from builder.tools import BUILD_TOOLS, open_tools

    try:
        run_elsewhere(first, second, json=as_json)
        cache = Cache(Cache.default().root, remove_tree)
        check_namespaces()
        tools = open_tools(BUILD_TOOLS, cache, Archive.from_environment(), Stages())
        lines = compare(first.resolve(), second.resolve(), cache, tools)
    except (BuildError, OSError) as error:
        hint = f"\nHint: {error.hint}." if isinstance(error, BuildError) and error.hint else ""
        click.echo(f"darkpipe: {error}{hint}", err=True)
        sys.exit(_TROUBLE)
    if as_json:
        click.echo(json.dumps({"equal": not lines, "differences": lines}, indent=1))
    else:
        click.echo("".join(f"{line}\n" for line in lines), nl=False)
    sys.exit(1 if lines else 0)
