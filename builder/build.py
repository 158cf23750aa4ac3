"""The main sequence: from a site and a profile to a folder with a flashable image."""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from builder.archive import Archive
from builder.bmap import make_map
from builder.boot_partition import Parts, boot_partitions, parts_id, seeded
from builder.cache import Cache
from builder.digests import content_id, file_digest
from builder.disk import Part, disk_size, place, write_image
from builder.errors import BuildError
from builder.eviction import limit_from_environment, shrink
from builder.lock import Lock
from builder.packages import LOCK_NAME, PackageLayer, locked_layer, package_layer
from builder.profile import Content, Loader, Profile
from builder.progress import Stages
from builder.project import project_layer
from builder.root import Root, RootTar, root_tar, verified_root
from builder.sandbox import check_namespaces
from builder.sbom import SBOM_NAME, sbom_text
from builder.seed import Seed
from builder.sums import MANIFEST_NAME, write_sums
from builder.tools import BUILD_TOOLS, open_tools
from builder.version import VERSION
from builder.wheels import locked_wheels
from builder.workshop import Stage, Workshop
from model.site import Site, UnlockPolicy
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
    seed: Seed,
    profile: Profile,
    output: Path,
    *,
    written: Site | None = None,
    refresh: bool = False,
    held: Held | None = None,
) -> Path:
    """Build a disk image.

    Args:
        output: the folder in which the result's folder is made.
        written: the site as its file has it, before passwords were asked for; `./darkpipe why` compares it.
        refresh: look at Debian's archive, however fresh the last look is.
        held: the packages to take; None takes what the archive has.

    Returns:
        The result's folder: the compressed image, its block map, manifest, bill of materials, lock and SHA256SUMS.

    Raises:
        BuildError: something that the user can act on; nothing half-made is left.
    """
    check_unlock(seed.site, profile)
    check_output(output)
    components = load_components(SOURCE / "components")
    if held:
        packages = locked_layer(shop, profile, components, held.lock, held.folder)
    else:
        packages = package_layer(shop, profile, components, refresh=refresh)
    project = project_layer(shop, profile, components, SOURCE, held.folder if held else None)
    tar = root_tar(shop, profile, packages, project)
    root = verified_root(shop, profile, tar)
    boot = boot_partitions(shop, profile, packages, root)
    inputs = image_inputs(shop, written or seed.site, profile, root, boot)
    with shop.cache.workspace() as work, shop.stages.stage(Stage.IMAGE.label):
        personal = seeded(boot, profile, seed, work, shop.tools)
        ids = Ids(parts_id(boot, root), parts_id(personal, root))
        name = f"darkpipe-{VERSION}-{profile.name}-{ids.seeded[:12]}"
        result = work / name
        result.mkdir(mode=0o700)  # the seed holds secrets
        image = result / f"{name}.img.{profile.packing}"
        parts = {**personal, Content.ROOT: Part(root.image, root.frame, root.image.stat().st_size)}
        extents = write_image(image, profile, root, parts, work, shop.tools)
        manifest = _manifest(image, ids, profile, components, packages, root)
        (result / MANIFEST_NAME).write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")
        (result / f"{name}.img.bmap").write_text(make_map(disk_size(profile), extents).text())
        (result / LOCK_NAME).write_text(packages.lock().text())
        (result / SBOM_NAME).write_text(sbom_text(packages.lock(), locked_wheels(), ids.generic))
        write_sums(result)
        published = publish(result, output)
    # Made for every build, since it takes less time than a copy; only what went in is kept.
    shop.cache.produce(Stage.IMAGE, Stage.IMAGE.label, inputs, lambda _: None)
    shrink(shop.cache, limit_from_environment())
    return published


def check_unlock(site: Site | None, profile: Profile) -> None:
    """Refuse a policy for the data disk that devices of a platform cannot have.

    Raises:
        BuildError: they cannot.
    """
    if site and site.disk.unlock is UnlockPolicy.TPM2 and profile.loader is not Loader.SYSTEMD_BOOT:
        raise BuildError(
            f"`disk: {{unlock: tpm2}}` needs a TPM that knows what was started, which a device of the profile "
            f"`{profile.name}` has not",
            "write `unlock: passphrase`",
        )


def image_inputs(shop: Workshop, site: Site | None, profile: Profile, root: Root, boot: Parts) -> dict[str, object]:
    """List all that an image is made from; each key of the site as a digest, since some are secret."""
    inputs: dict[str, object] = {
        "version": VERSION,
        "profile": profile.name,
        "partitions": [partition.model_dump(mode="json") for partition in profile.partitions],
        "root": root.root_hash,
        "boot": {name: file_digest(part.frame) for name, part in boot.items()},
    }
    if site:
        inputs["site"] = {key: content_id({key: value}) for key, value in site.model_dump(mode="json").items()}
    names = ("bmap", "boot_partition", "build", "disk", "frames", "lock", "packing", "sbom", "sums", "xz")
    return shop.complete(inputs, tuple(f"{name}.py" for name in names))


def build_root_tar(shop: Workshop, profile: Profile) -> RootTar:
    """Build the root file system alone, as the tar that every shell of the home stack is made from."""
    components = load_components(SOURCE / "components")
    packages = package_layer(shop, profile, components)
    return root_tar(shop, profile, packages, project_layer(shop, profile, components, SOURCE))


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


def _manifest(
    image: Path,
    ids: Ids,
    profile: Profile,
    components: tuple[Component, ...],
    packages: PackageLayer,
    root: Root,
) -> dict[str, object]:
    return {
        "version": VERSION,
        "profile": profile.name,
        "architecture": profile.architecture,
        "ids": {"generic": ids.generic, "seeded": ids.seeded},
        "image": {
            "file": image.name,
            "compressed_bytes": image.stat().st_size,
            "bytes": disk_size(profile),
            "smallest_disk_bytes": profile.smallest_disk,
        },
        "loader": profile.loader,
        "table": profile.table,
        "partitions": [
            {
                "number": row.number,
                "label": row.partition.label,
                "start": row.start,
                "bytes": row.size,
                "type": row.partition.type,
                "content": row.partition.content,
            }
            for row in place(profile)
        ],
        "root": {"hash": root.root_hash, "bytes": root.image.stat().st_size},
        "components": [component.name for component in components],
        "packages": packages.packages(),
        "wheels": {wheel.url: wheel.sha256 for wheel in locked_wheels()},
    }


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
        message = f"{target} cannot be written: {_reason(error)}"
        raise BuildError(message, "free some space, or choose another folder: --output") from error
    return target


def _reason(error: OSError) -> str:
    if isinstance(error, shutil.Error) and isinstance(error.args[0], list):
        # What shutil gathers while it copies a folder: source, target, and the text of the error with both in it.
        _, _, text = error.args[0][0]
        return str(text).partition("] ")[2].partition(": '")[0] or str(text)
    return error.strerror or str(error)
