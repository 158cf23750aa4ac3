"""The repository file by which the Raspberry Pi Imager offers an image, and its user's settings with it.

Format: the Imager's doc/json-schema/os-list-schema.json and doc/schema-notes.md, version 2.0.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builder.digests import file_digest
from builder.errors import BuildError
from builder.packages import BUILD_EPOCH
from builder.packing import find_image
from builder.profile import Loader
from builder.progress import Advance
from builder.sums import MANIFEST_NAME, check_sums, read_manifest

SUFFIX = ".rpi-imager-manifest"
"""The ending that the Imager has registered on people's computers."""

ICON = Path(__file__).resolve().parent.parent / "profiles/raspberrypi/icon.png"
"""40 by 40 pixels."""

_DEVICES = {"Raspberry Pi 5": "pi5-64bit", "Raspberry Pi 4": "pi4-64bit"}
"""Boards by the Imager's tags; a 400 and a Compute Module 4 have that of the 4."""

_ARCHITECTURE = "armv8"
_CHUNK = 2**22
_SETTINGS = "cloudinit"
"""The format in which the Imager leaves its user's settings: the one that its versions 1 and 2 both know."""


@dataclass(frozen=True)
class Offer:
    """An image for the Imager.

    Args:
        version: of DarkPipe.
        image: URL of the compressed image.
        block_map: URL of its block map.
        icon: URL of the icon.
        size: of the unpacked image, in bytes.
        sha256: of the unpacked image.
        packed_size: of the compressed image, in bytes.
        packed_sha256: of the compressed image.
        released: seconds since 1970.
    """

    version: str
    image: str
    block_map: str
    icon: str
    size: int
    sha256: str
    packed_size: int
    packed_sha256: str
    released: int


def repository(offer: Offer) -> str:
    """Write the repository file, a JSON text."""
    item = {
        "name": f"DarkPipe {offer.version}",
        "description": "E-mail for you and your family, on your own hardware at home",
        "icon": offer.icon,
        "url": offer.image,
        "bmap_url": offer.block_map,
        "extract_size": offer.size,
        "extract_sha256": offer.sha256,
        "image_download_size": offer.packed_size,
        "image_download_sha256": offer.packed_sha256,
        "release_date": time.strftime("%Y-%m-%d", time.gmtime(offer.released)),
        "devices": list(_DEVICES.values()),
        "architecture": _ARCHITECTURE,
        "init_format": _SETTINGS,
    }
    devices = [
        {
            "name": name,
            "description": f"{name}, 64 bit",
            "icon": offer.icon,
            "tags": [tag],
            "matching_type": "exclusive",
            "architecture": _ARCHITECTURE,
        }
        for name, tag in _DEVICES.items()
    ]
    return json.dumps({"imager": {"devices": devices}, "os_list": [item]}, indent=1) + "\n"


def offer_of(folder: Path, base: str | None, advance: Advance) -> Offer:
    """Describe the image in a result's folder.

    Args:
        base: URL of the folder in which image, block map and icon are published; None for the files as they lie here.
        advance: is told how far the image was read, which takes a minute.

    Raises:
        BuildError: it is no result for the Raspberry Pi, damaged, or to be published with somebody's seed in it.
    """
    image = find_image(folder)
    manifest = read_manifest(folder)
    if manifest.get("loader") != Loader.RASPBERRY_PI:
        found = manifest.get("profile", "something else")
        hint = "build one with ./darkpipe build SITE --profile raspberrypi"
        raise BuildError(f"{folder} is a result for {found}, and the Raspberry Pi Imager writes others", hint)
    if base and _is_seeded(manifest):
        raise BuildError(
            f"{folder} is for one device: whoever gets this image has the seed in it, with hashes of passwords, keys "
            "of the relay, or the code for the device's page",
            "publish an image of ./darkpipe build --without-site, with no --code; leave out --url to have the Imager "
            "write this one",
        )
    if faults := check_sums(folder):
        raise BuildError(f"{folder} is damaged: {'; '.join(faults)}", "copy or build it again")
    block_map = image.with_suffix(".bmap")

    def url(path: Path) -> str:
        return f"{base.rstrip('/')}/{path.name}" if base else path.resolve().as_uri()

    return Offer(
        version=str(manifest["version"]),
        image=url(image),
        block_map=url(block_map),
        icon=url(ICON),
        size=_size(manifest),
        sha256=_unpacked_digest(image, _size(manifest), advance),
        packed_size=image.stat().st_size,
        packed_sha256=file_digest(image),
        released=BUILD_EPOCH,
    )


def _is_seeded(manifest: Mapping[str, Any]) -> bool:
    """Tell whether an image has more in it than that of everybody."""
    ids = manifest.get("ids")
    return not isinstance(ids, Mapping) or ids.get("generic") != ids.get("seeded")


def _size(manifest: Mapping[str, Any]) -> int:
    try:
        return int(manifest["image"]["bytes"])
    except (KeyError, TypeError, ValueError) as error:
        raise BuildError(f"{MANIFEST_NAME} does not say the image's size", "build it again") from error


def _unpacked_digest(image: Path, size: int, advance: Advance) -> str:
    digest = hashlib.sha256()
    done = 0
    try:
        with lzma.open(image) as stream:
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
                done += len(chunk)
                advance(done / size, f"{done / 10**6:.0f} of {size / 10**6:.0f} MB")
    except (lzma.LZMAError, EOFError) as error:
        raise BuildError(f"{image} is damaged: {error}", "copy or build it again") from error
    if done != size:
        raise BuildError(f"{image} unpacks to {done:,} bytes; expected {size:,}", "copy or build it again")
    return digest.hexdigest()
