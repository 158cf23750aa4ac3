"""`./darkpipe imager`: what the Raspberry Pi Imager needs to write an image with its user's settings."""

from __future__ import annotations

import shutil
from pathlib import Path

import click


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--url", metavar="BASE", help="Where image, block map and icon will be published; default: as they lie.")
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="PARENT",
    help="Folder for the file; default: beside FOLDER, or beside the release that it is in.",
)
def imager(folder: Path, url: str | None, output: Path | None) -> None:
    """Write the file by which the Raspberry Pi Imager offers the image in a FOLDER of `./darkpipe build`.

    Open it in the Imager: by a double click (since its version 2.0.3) or with `rpi-imager --repo FILE`. Unlike an image
    that is chosen by hand, one that is offered in this way can be given a host name, a user, Wi-Fi, an SSH key, a time
    zone and a keyboard; the device takes them over at its first start.

    With --url the icon is put beside the file; publish both together with image and block map. That is for images of
    `./darkpipe build --without-site`: one with a site or a code holds secrets, and is refused.

    \b
    Examples:
      ./darkpipe imager out/darkpipe-0.1.0-raspberrypi-…
      ./darkpipe imager out/darkpipe-0.1.0-raspberrypi-… --url https://example.org/darkpipe
    """
    from builder.build import check_output
    from builder.errors import BuildError
    from builder.imager import ICON, SUFFIX, offer_of, repository
    from builder.progress import Stages

    if url is not None and not url.startswith(("https://", "http://")):
        raise BuildError(f"--url {url}: found no web address", "for instance --url https://example.org/darkpipe")
    target = (output or _beside(folder.resolve())) / f"{folder.resolve().name}{SUFFIX}"
    check_output(target.parent)
    with Stages().stage("Read the image", "the Imager wants the sum of the unpacked image") as advance:
        text = repository(offer_of(folder, url, advance))
    target.write_text(text, encoding="utf-8")
    if url:
        shutil.copy(ICON, target.parent)
    click.echo(target)


def _beside(folder: Path) -> Path:
    """Give the folder that a result is in; not that of a release, whose sums know every file in it."""
    from builder.sums import SUMS_NAME

    return folder.parent.parent if (folder.parent / SUMS_NAME).exists() else folder.parent
