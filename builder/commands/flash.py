"""`./darkpipe flash`: an image onto a disk."""

from __future__ import annotations

import sys
from pathlib import Path

import click


@click.command()
@click.argument("image", type=click.Path(path_type=Path, exists=True))
@click.argument("device", type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Write to a disk above 2 TB as well.")
@click.option("--confirm", metavar="NAME", help="Instead of typing it: the name, such as sdb.")
@click.option("--plain-file", is_flag=True, help="DEVICE is a file; one that is missing is made.")
def flash(image: Path, device: Path, force: bool, confirm: str | None, plain_file: bool) -> None:
    """Write an IMAGE (a folder of `./darkpipe build`) to the disk DEVICE, and read it back.

    Everything on the disk is lost. One that is in use (mounted, swap, LVM, encryption, RAID) or too small is refused,
    and one above 2 TB without --force. Model, size and serial number are shown, and the disk's name must be typed.
    Needs the right to write to the disk, usually root.

    With --plain-file the image goes into a file, which is made in the image's size. The name of one that has something
    in it already must be typed as well.

    \b
    Examples:
      sudo ./darkpipe flash out/darkpipe-…  /dev/sdb
      ./darkpipe flash out/darkpipe-…  disk.img --plain-file
    """
    from builder.archive import Archive
    from builder.cache import Cache
    from builder.errors import BuildError
    from builder.flash import open_image, state_after, write_disk
    from builder.progress import Stages
    from builder.sandbox import check_namespaces, remove_tree
    from builder.target_disk import examine_disk, refuse
    from builder.tools import BUILD_TOOLS, open_tools
    from builder.where import must_be_here

    must_be_here("bmaptool writes the image as well: sudo bmaptool copy out/…/….img.zst /dev/sdX")
    found = open_image(image)
    if plain_file:
        _prepare_file(device, found.block_map.image_size, confirm)
        target = device
    else:
        disk = examine_disk(device)
        refuse(disk, found.smallest, force=force)
        click.echo(disk.describe(), err=True)
        _confirm(disk.name, confirm)
        target = disk.path
    stages = Stages()
    check_namespaces()
    tools = open_tools(BUILD_TOOLS, Cache(Cache.default().root, remove_tree), Archive.from_environment(), stages)
    try:
        write_disk(found, target, tools, stages)
    except BuildError as error:
        raise BuildError(f"{error}\n{state_after(target)}", error.hint) from error
    except Exception:
        raise
    except BaseException:  # Ctrl-C and its kin
        click.echo(f"darkpipe: interrupted. {state_after(target)}", err=True)
        sys.exit(130)
    click.echo(f"{target} holds the image, as reading it back has shown.", err=True)


def _confirm(name: str, given: str | None) -> None:
    from builder.errors import BuildError

    if given is None and not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise BuildError("nobody can be asked here (no terminal)", f"add --confirm {name}, if it is the right one")
    answer = given
    if answer is None:
        answer = click.prompt(
            f"Everything on it will be lost. Type {name} to go on", default="", show_default=False, err=True
        )
    if answer != name:
        raise BuildError(f"nothing was written: the name is {name}, the answer {answer!r}")


def _prepare_file(path: Path, size: int, confirm: str | None) -> None:
    from builder.errors import BuildError

    if path.exists() and not path.is_file():
        raise BuildError(f"{path} is no regular file", "leave out --plain-file for a disk")
    # It may be the disk of a device that runs in a virtual machine, with all its mail.
    if path.exists() and (there := path.stat().st_size):
        click.echo(f"{path}: a file of {there:,} bytes", err=True)
        _confirm(path.name, confirm)
    try:
        path.touch(mode=0o600)  # the seed may hold password hashes
        with path.open("r+b") as file:
            if file.seek(0, 2) < size:
                file.truncate(size)
    except OSError as error:
        raise BuildError(f"{path} cannot be written: {error.strerror}", "name a file in a folder of yours") from error
