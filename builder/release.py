"""A release: the images of all platforms in one folder, with one manifest and one list of sums."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from builder.build import build_image, check_output, publish
from builder.digests import content_id
from builder.profile import Profile
from builder.seed import Seed
from builder.sums import MANIFEST_NAME, read_manifest, write_sums
from builder.version import VERSION
from builder.workshop import Workshop
from model.site import Site

RESULTS = "results"
"""The manifest's key for the manifests of all results; only a release's manifest has it."""


def build_release(
    shop: Workshop,
    seed: Seed,
    profiles: Sequence[Profile],
    output: Path,
    *,
    written: Site | None,
    refresh: bool = False,
) -> Path:
    """Build the images of several profiles.

    Args:
        seed: of every image.
        output: the folder in which the release's folder is made.
        written: the site as its file has it, before passwords were asked for; None without one.
        refresh: look at Debian's archive, however fresh the last look is.

    Returns:
        The release's folder: a folder for each profile's result, and a manifest and SHA256SUMS for all.

    Raises:
        BuildError: something that the user can act on; nothing half-made is left.
    """
    check_output(output)
    with shop.cache.workspace() as work:
        folder = work / "release"
        folder.mkdir(mode=0o700)  # the seed holds secrets
        for profile in profiles:
            shop.stages.say(f"\n{profile.name}: {profile.description}")
            build_image(shop, seed, profile, folder, written=written, refresh=refresh)
        manifests = {path.name: read_manifest(path) for path in sorted(folder.iterdir())}
        identifier = release_id(manifests)
        manifest = {"version": VERSION, "id": identifier, RESULTS: manifests}
        (folder / MANIFEST_NAME).write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")
        write_sums(folder)
        return publish(folder.rename(work / f"darkpipe-{VERSION}-all-{identifier[:12]}"), output)


def release_id(manifests: Mapping[str, Mapping[str, Any]]) -> str:
    """Give a release's id: that of its images.

    Args:
        manifests: the results' manifests by their folders' names.
    """
    return content_id({name: manifest["ids"] for name, manifest in manifests.items()})


def results(folder: Path) -> dict[str, dict[str, Any]]:
    """Give what the manifest of a release says of each result's folder; nothing for another folder."""
    found = read_manifest(folder).get(RESULTS, {})
    return found if isinstance(found, dict) else {}
