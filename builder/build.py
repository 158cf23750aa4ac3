"""The main sequence: from a site and a profile to a folder with a flashable image."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from builder.archive import Archive
from builder.bmap import BlockMap, Extent, make_map, used_size
from builder.boot_partition import BootPartition, boot_partition, seeded
from builder.cache import Cache
from builder.digests import content_id, file_digest
from builder.disk import Placed, disk_size, place, write_image
from builder.errors import BuildError
from builder.eviction import limit_from_environment, shrink
from builder.frames import end_of_content
from builder.lock import Lock
from builder.packages import LOCK_NAME, PackageLayer, locked_layer, package_layer
from builder.profile import Content, Profile
from builder.progress import Stages
from builder.project import project_layer
from builder.root import Root, RootTar, root_tar, verified_root
from builder.sandbox import check_namespaces
from builder.sbom import SBOM_NAME, sbom_text
from builder.sums import MANIFEST_NAME, write_sums
from builder.tools import BUILD_TOOLS, host_architecture, open_tools
from builder.version import VERSION
from builder.workshop import Stage, Workshop
from model.document import dump_site
from model.site import Site
from stack.component import Component, load_components

SOURCE = Path(__file__).resolve().parent.parent
"""The folder with our code and data."""


@dataclass(frozen=True)
class Ids:
    """Content ids of one build: of the image that is the same for everybody, and of the one with the seed in it."""

    generic: str
    seeded: str


@dataclass(frozen=True)
class Held:
    """A build that is held to a lock; its packages come from a folder, or from the archive without one."""

    lock: Lock
    folder: Path | None = None


def open_workshop(cache: Cache, archive: Archive, stages: Stages, *, refresh: bool = False) -> Workshop:
    """Check the host and make the tools ready.

    Args:
        refresh: install newer tools if Debian's archive has changed since these were installed.

    Raises:
        BuildError: the host refuses what every build needs, or the tools cannot be installed.
    """
    check_namespaces()
    return Workshop(open_tools(BUILD_TOOLS, cache, archive, stages, refresh=refresh), cache, archive, stages)


def build_image(
    shop: Workshop,
    site: Site,
    profile: Profile,
    output: Path,
    *,
    written: Site | None = None,
    refresh: bool = False,
    held: Held | None = None,
) -> Path:
    """Build a disk image.

    Args:
        site: what the seed shall say; passwords are hashes or left to the device.
        output: the folder in which the result's folder is made.
        written: the site as its file has it, before passwords were asked for; `darkpipe why` compares it.
        refresh: look at Debian's archive, however fresh the last look is.
        held: the packages to take; None takes what the archive has.

    Returns:
        The result's folder: the compressed image, its block map, manifest, bill of materials, lock and SHA256SUMS.

    Raises:
        BuildError: something that the user can act on; nothing half-made is left.
    """
    _check_architecture(profile)
    check_output(output)
    components = load_components(SOURCE / "components")
    if held:
        packages = locked_layer(shop, profile, components, held.lock, held.folder)
    else:
        packages = package_layer(shop, profile, components, refresh=refresh)
    project = project_layer(shop, profile, components, SOURCE)
    tar = root_tar(shop, packages, project)
    root = verified_root(shop, profile, tar)
    boot = boot_partition(shop, profile, packages, root)
    inputs = image_inputs(shop, written or site, profile, root, boot)
    with shop.cache.workspace() as work, shop.stages.stage(Stage.IMAGE.label):
        personal = seeded(boot, dump_site(site), work, shop.tools)
        ids = Ids(_image_id(root, boot), _image_id(root, personal))
        name = f"darkpipe-{VERSION}-{profile.name}-{ids.seeded[:12]}"
        result = work / name
        result.mkdir(mode=0o700)  # the seed may hold password hashes
        image = result / f"{name}.img.zst"
        frames = {Content.BOOT: personal.frame, Content.ROOT: root.frame}
        write_image(image, place(profile), root, frames, work, shop.tools)
        manifest = _manifest(image, ids, profile, components, packages, root)
        (result / MANIFEST_NAME).write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")
        (result / f"{name}.img.bmap").write_text(_block_map(place(profile), personal, root, work).text())
        (result / LOCK_NAME).write_text(packages.lock().text())
        (result / SBOM_NAME).write_text(sbom_text(packages.lock(), ids.generic))
        write_sums(result)
        published = publish(result, output)
    # Made for every build, since it takes less time than a copy; only what went in is kept.
    shop.cache.produce(Stage.IMAGE, Stage.IMAGE.label, inputs, lambda _: None)
    shrink(shop.cache, limit_from_environment())
    return published


def image_inputs(
    shop: Workshop, site: Site | None, profile: Profile, root: Root, boot: BootPartition
) -> dict[str, object]:
    """List all that an image is made from; each key of the site as a digest, since some are secret."""
    inputs: dict[str, object] = {
        "version": VERSION,
        "profile": profile.name,
        "partitions": [partition.model_dump(mode="json") for partition in profile.partitions],
        "root": root.root_hash,
        "boot": file_digest(boot.frame),
    }
    if site:
        inputs["site"] = {key: content_id({key: value}) for key, value in site.model_dump(mode="json").items()}
    code = ("bmap.py", "boot_partition.py", "build.py", "disk.py", "frames.py", "lock.py", "sbom.py", "sums.py")
    return shop.complete(inputs, code)


def build_root_tar(shop: Workshop, profile: Profile) -> RootTar:
    """Build the root file system alone, as the tar that every shell of the home stack is made from."""
    components = load_components(SOURCE / "components")
    packages = package_layer(shop, profile, components)
    return root_tar(shop, packages, project_layer(shop, profile, components, SOURCE))


def _check_architecture(profile: Profile) -> None:
    here = host_architecture()
    if profile.architecture != here:
        message = f"the profile {profile.name} is for {profile.architecture}, and this computer is {here}"
        raise BuildError(message, f"build it on a computer with {profile.architecture}; across, it is not built yet")


def check_output(output: Path) -> None:
    """Make the folder for results, and try to write there.

    Raises:
        BuildError: it cannot be.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
        Path(tempfile.mkdtemp(prefix=".darkpipe-", dir=output)).rmdir()
    except OSError as error:
        raise BuildError(f"{output} cannot be written: {error.strerror}", "choose another folder: --output") from error


def _image_id(root: Root, boot: BootPartition) -> str:
    return content_id({"root": root.root_hash, "boot": file_digest(boot.frame)})


def _manifest(
    image: Path,
    ids: Ids,
    profile: Profile,
    components: tuple[Component, ...],
    packages: PackageLayer,
    root: Root,
) -> dict[str, object]:
    placed = place(profile)
    return {
        "version": VERSION,
        "profile": profile.name,
        "architecture": profile.architecture,
        "ids": {"generic": ids.generic, "seeded": ids.seeded},
        "image": {
            "file": image.name,
            "compressed_bytes": image.stat().st_size,
            "bytes": disk_size(placed),
            "smallest_disk_bytes": profile.smallest_disk,
        },
        "partitions": [
            {"label": row.partition.label, "start": row.start, "bytes": row.size, "type": row.partition.type}
            for row in placed
        ],
        "root": {"hash": root.root_hash, "bytes": root.image.stat().st_size},
        "components": [component.name for component in components],
        "packages": packages.packages(),
    }


def _block_map(placed: Sequence[Placed], boot: BootPartition, root: Root, work: Path) -> BlockMap:
    """Map what `write_image` has put together; `work` still holds the image's two ends."""
    size = disk_size(placed)
    extents = [Extent(0, placed[0].start, work / "head")]
    for row in placed:
        if row.partition.content is Content.BOOT:
            extents.append(Extent(row.start, used_size(end_of_content(boot.image), row.size), boot.image))
        else:
            extents.append(Extent(row.start, root.image.stat().st_size, root.image))
    end = placed[-1].start + placed[-1].size
    extents.append(Extent(end, size - end, work / "tail"))
    return make_map(size, extents)


def publish(result: Path, output: Path) -> Path:
    """Move a finished folder to its place, at once; it may lie on another file system, so it goes beside it first.

    Args:
        output: the folder in which it gets its place; another one of its name goes.

    Raises:
        BuildError: it cannot be written there.
    """
    target = output / result.name
    try:
        with tempfile.TemporaryDirectory(prefix=".darkpipe-", dir=output) as beside:
            finished = Path(shutil.move(result, beside))
            if target.exists():
                target.rename(Path(beside) / "old")
            finished.rename(target)
    except OSError as error:
        message = f"{target} cannot be written: {error.strerror or error}"
        raise BuildError(message, "free some space, or choose another folder: --output") from error
    return target
