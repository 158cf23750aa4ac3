"""`./darkpipe lock`: the exact packages of a profile, to hold a release to."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.option("--profile", default="x64", show_default=True, metavar="NAME", help="Platform whose packages are meant.")
@click.option(
    "--output", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Default: packages-PROFILE.lock."
)
@click.option("--refresh", is_flag=True, help="Look at Debian's archive now.")
def lock(profile: str, output: Path | None, refresh: bool) -> None:
    """Record name, version, architecture and sha256 of all Debian packages that a build takes.

    Installs the packages if they are not at hand. `./darkpipe build --lock FILE` then takes exactly these, or fails and
    names those that are not to be had any more. Every result's folder holds the lock of its image as well.

    \b
    Examples:
      ./darkpipe lock --refresh
      ./darkpipe build my-site.yaml --lock packages-x64.lock
      ./darkpipe build my-site.yaml --lock packages-x64.lock --packages /srv/debs
    """
    from builder.archive import Archive
    from builder.build import SOURCE, open_workshop
    from builder.cache import Cache
    from builder.errors import BuildError
    from builder.packages import package_layer
    from builder.profile import find_profile
    from builder.progress import Stages
    from builder.sandbox import remove_tree
    from builder.where import builds_here
    from stack.component import load_components

    chosen = find_profile(SOURCE / "profiles", profile)
    target = output or Path(f"packages-{profile}.lock")
    if builds_here():
        store = Cache(Cache.default().root, remove_tree)
        shop = open_workshop(store, Archive.from_environment(), Stages(), refresh=refresh)
        made = package_layer(shop, chosen, load_components(SOURCE / "components"), refresh=refresh).lock().text()
    else:
        from builder.container import given, lock_in_container

        made = lock_in_container(given(profile=profile, refresh=refresh), Stages())
    try:
        partial = target.with_name(f".{target.name}.new")
        partial.write_text(made, encoding="utf-8")
        partial.replace(target)
    except OSError as error:
        raise BuildError(f"{target} cannot be written: {error.strerror}", "name another file: --output") from error
    click.echo(target)
