"""The main sequence: from a site and a profile to a folder with a flashable image."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from builder.archive import Archive
from builder.boot_partition import BootPartition, boot_partition, seeded
from builder.cache import Cache, content_id
from builder.disk import disk_size, place, write_image
from builder.errors import BuildError
from builder.packages import PackageLayer, package_layer
from builder.profile import Content, Profile
from builder.progress import Stages
from builder.project import project_layer
from builder.root import Root, root_tar, verified_root
from builder.sandbox import check_namespaces
from builder.tools import BUILD_TOOLS, open_tools
from builder.version import VERSION
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


def build_image(
    site: Site, profile: Profile, output: Path, cache: Cache, archive: Archive, stages: Stages, *, refresh: bool = False
) -> Path:
    """Build a disk image.

    Args:
        site: what the seed shall say; passwords are hashes or left to the device.
        output: the folder in which the result's folder is made.
        refresh: take in what Debian's archive has published since the last build.

    Returns:
        The result's folder: the compressed image, `manifest.json` and `SHA256SUMS`.

    Raises:
        BuildError: something that the user can act on; nothing half-made is left.
    """
    check_namespaces()
    _check_output(output)
    components = load_components(SOURCE / "components")
    tools = open_tools(BUILD_TOOLS, cache, archive, stages)
    packages = package_layer(profile, components, tools, cache, archive, stages, refresh=refresh)
    project = project_layer(profile, components, SOURCE, tools, cache, stages)
    tar = root_tar(packages, project, cache, stages)
    root = verified_root(profile, tar, tools, cache, stages)
    boot = boot_partition(profile, packages, root, tools, cache, stages)
    with cache.workspace() as work, stages.stage("Disk image"):
        personal = seeded(boot, dump_site(site), work, tools)
        ids = Ids(_image_id(root, boot), _image_id(root, personal))
        name = f"darkpipe-{VERSION}-{profile.name}-{ids.seeded[:12]}"
        result = work / name
        result.mkdir(mode=0o700)  # the seed may hold password hashes
        image = result / f"{name}.img.zst"
        write_image(image, profile, root, {Content.BOOT: personal.frame, Content.ROOT: root.frame}, work, tools)
        _write_manifest(result / "manifest.json", image, ids, profile, components, packages, root)
        _write_sums(result)
        return _publish(result, output)


def build_root_tar(profile: Profile, cache: Cache, archive: Archive, stages: Stages) -> Path:
    """Build the root file system alone, as the tar that every shell of the home stack is made from."""
    check_namespaces()
    components = load_components(SOURCE / "components")
    tools = open_tools(BUILD_TOOLS, cache, archive, stages)
    packages = package_layer(profile, components, tools, cache, archive, stages)
    project = project_layer(profile, components, SOURCE, tools, cache, stages)
    return root_tar(packages, project, cache, stages)


def _check_output(output: Path) -> None:
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BuildError(f"{output} cannot be made: {error.strerror}", "choose another folder with --output") from error


def _image_id(root: Root, boot: BootPartition) -> str:
    with boot.frame.open("rb") as frame:
        digest = hashlib.file_digest(frame, "sha256").hexdigest()
    return content_id({"root": root.root_hash, "boot": digest})


def _write_manifest(
    path: Path,
    image: Path,
    ids: Ids,
    profile: Profile,
    components: tuple[Component, ...],
    packages: PackageLayer,
    root: Root,
) -> None:
    placed = place(profile)
    manifest = {
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
    path.write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")


def _write_sums(folder: Path) -> None:
    """Write SHA256SUMS as sha256sum(1) reads it."""
    lines = []
    for path in sorted(folder.iterdir()):
        with path.open("rb") as file:
            lines.append(f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {path.name}\n")
    (folder / "SHA256SUMS").write_text("".join(lines))


def _publish(result: Path, output: Path) -> Path:
    """Move the finished folder to its place; the cache may lie on another file system, so it is copied beside first."""
    target = output / result.name
    beside = output / f".{result.name}.partial"
    shutil.rmtree(beside, ignore_errors=True)
    try:
        shutil.copytree(result, beside)
        beside.chmod(0o700)
        if target.exists():
            shutil.rmtree(target)
        beside.rename(target)
    except OSError as error:
        shutil.rmtree(beside, ignore_errors=True)
        raise BuildError(f"{target} cannot be written: {error.strerror}", "is the disk full?") from error
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    return target
