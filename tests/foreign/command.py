"""`./dev test foreign`: the package layer for arm64 is the same however its programs were run."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click

from builder.archive import Archive
from builder.build import SOURCE, open_workshop
from builder.cache import Cache
from builder.errors import BuildError
from builder.foreign import VARIABLE, Way
from builder.packages import install
from builder.profile import load_profile
from builder.progress import Stages
from builder.sandbox import remove_tree
from stack.component import load_components
from tests.reproducible.command import differing_members, plant

_PLANTED = "./etc/planted"


@click.command()
@click.option("--planted", is_flag=True, help="Let a package hook write a random file: exactly that must be found.")
def foreign(planted: bool) -> None:
    """Install the whole package layer of the Raspberry Pi plainly emulated, and with this computer's programs; compare.

    Needs a computer with amd64, 8 GB of disk, and more than half an hour, nearly all of it for the plain emulation.

    \b
    Examples:
      ./dev test foreign
      ./dev test foreign --planted
    """
    stages = Stages()
    cache = Cache(Cache.default().root, remove_tree)
    profile = load_profile(SOURCE / "profiles/raspberrypi")
    try:
        shop = open_workshop(cache, Archive.from_environment(), stages)
        with cache.workspace() as work:
            folders = []
            with plant(load_components(SOURCE / "components"), planted) as components:
                for way in (Way.NATIVE_TOOLS, Way.EMULATED):
                    (work / way).mkdir()
                    with running(way), stages.stage(f"Package layer, {way}"):
                        folders.append(install(shop, profile, components, work / way).folder)
            differences = differing_members(*folders)
    except BuildError as error:
        raise click.ClickException(str(error)) from error
    for line in differences:
        click.echo(line)
    expected = [f"{_PLANTED}: content"] if planted else []
    click.echo("as expected" if differences == expected else "NOT as expected")
    sys.exit(0 if differences == expected else 1)


@contextmanager
def running(way: Way) -> Iterator[None]:
    """Have foreign programs run in one way for as long as the block lasts."""
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = way
    try:
        yield
    finally:
        del os.environ[VARIABLE]
        if before is not None:
            os.environ[VARIABLE] = before
