"""The project layer: all that we add to Debian's packages, as a small tar on top of the package layer."""

from __future__ import annotations

import configparser
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from builder.bundle import make_bundle, source_files
from builder.digests import content_id, file_digest, tree_digests
from builder.packages import BUILD_EPOCH
from builder.profile import Content, Partition, Profile
from builder.progress import Advance
from builder.sandbox import Sandbox
from builder.tar import write_tar
from builder.version import VERSION
from builder.wheels import Wheel, keep_wheels, locked_wheels, unpack, wheel_files
from builder.workshop import Stage, Workshop
from model.bundle import BUNDLE, BUNDLE_RECORD
from model.layout import Table
from stack.component import Component

CODE = ("model", "stack", "web", "firstboot", "home", "bootstrap", "relay-cloudinit")
"""Our packages that run on the device, and what the last but one makes user-data from."""

RELAY = ("relay/__init__.py", "relay/receiver.py", "relay/render.py")
"""The same of the relay's; they are in the bundle, too, with all else of it."""

_CODE_FOLDER = "usr/lib/darkpipe"
_LIBRARIES = f"{_CODE_FOLDER}/python"
_DATA_FOLDER = "usr/share/darkpipe"
_MOUNT_POINTS = ("boot", "data", "state")
_DIGEST = "digest"
_CACHED = shutil.ignore_patterns("__pycache__")


@dataclass(frozen=True)
class ProjectLayer:
    """A finished project layer.

    Args:
        tar: all that we add.
        digest: of the tar.
    """

    tar: Path
    digest: str


def project_layer(
    shop: Workshop, profile: Profile, components: Sequence[Component], source: Path, folder: Path | None = None
) -> ProjectLayer:
    """Give the project layer.

    Args:
        source: the folder with our code and data, the checkout's root.
        folder: where wheels are taken from that are not at hand; None fetches them.

    Raises:
        BuildError: a wheel is not to be had.
    """
    inputs = {
        "version": VERSION,
        "epoch": BUILD_EPOCH,
        "profile": profile.model_dump(mode="json", exclude={"folder"}),
        "components": [component.model_dump(mode="json", exclude={"folder"}) for component in components],
        "wheels": {wheel.file: wheel.sha256 for wheel in locked_wheels()},
        "bundle": {str(path.relative_to(source)): file_digest(path) for path in source_files(source)},
        "files": tree_digests(*(source / name for name in CODE), *(component.folder for component in components)),
    }
    # What the device shows as its project follows from ours alone, not from the tools at hand.
    identifier = content_id(inputs)

    def make(made: Path, _: Advance) -> None:
        tree = made.parent / "tree"
        files = wheel_files(shop.cache, folder)
        unpack(image_wheels(profile), files, tree / _LIBRARIES)
        _add_bundle(tree / _DATA_FOLDER, made.parent / "bundle", source, files)
        _build(made, tree, shop.tools, profile, components, source, identifier)
        (made / _DIGEST).write_text(file_digest(made / "root.tar"))

    keep_wheels(shop.cache)
    entry = shop.stage(Stage.PROJECT, inputs, ("bundle.py", "project.py", "tar.py", "wheels.py"), make)
    return ProjectLayer(entry / "root.tar", (entry / _DIGEST).read_text())


def image_wheels(profile: Profile) -> tuple[Wheel, ...]:
    """Give the Python libraries that an image has for its own use, beside Debian's; its bundle has those of both."""
    return tuple(wheel for wheel in locked_wheels() if wheel.architecture == profile.architecture)


def _build(
    made: Path,
    tree: Path,
    tools: Sandbox,
    profile: Profile,
    components: Sequence[Component],
    source: Path,
    identifier: str,
) -> None:
    for name in _MOUNT_POINTS:
        (tree / name).mkdir(parents=True)
    for name in CODE:
        shutil.copytree(source / name, tree / _CODE_FOLDER / name, ignore=_CACHED)
    (tree / _CODE_FOLDER / "relay").mkdir()
    for name in RELAY:
        shutil.copy(source / name, tree / _CODE_FOLDER / name)
    for component in components:
        _add_component(tree, component)
    if profile.table is Table.GPT:
        _add_repart_definitions(tree / _DATA_FOLDER / "repart.d", profile)
    (tree / _DATA_FOLDER / "disk.json").write_text(profile.layout().model_dump_json(indent=1) + "\n")
    image = {"version": VERSION, "profile": profile.name, "project": identifier}
    (tree / _DATA_FOLDER / "image.json").write_text(json.dumps(image, indent=1, sort_keys=True) + "\n")
    wheels = {wheel.url: wheel.sha256 for wheel in locked_wheels()}
    (tree / _DATA_FOLDER / "wheels.json").write_text(json.dumps(wheels, indent=1, sort_keys=True) + "\n")
    compiled = tools.inside(tree / _CODE_FOLDER)
    # The device's file system is read-only: without this it would compile our code anew at every start.
    options = ("-q", "-j", "1", "--invalidation-mode", "unchecked-hash")
    tools.run(["python3", "-m", "compileall", *options, "-s", compiled, "-p", f"/{_CODE_FOLDER}", compiled])
    with (made / "root.tar").open("wb") as file:
        write_tar(file.name, tree)


def _add_bundle(data: Path, work: Path, source: Path, files: Path) -> None:
    data.mkdir(parents=True)
    bundle = make_bundle(source, locked_wheels(), files, work, data / BUNDLE)
    (data / BUNDLE_RECORD).write_text(json.dumps(bundle, indent=1, sort_keys=True) + "\n")


def _add_component(tree: Path, component: Component) -> None:
    data = tree / _DATA_FOLDER / "components" / component.name
    data.mkdir(parents=True)
    shutil.copy(component.folder / "component.yaml", data)
    if component.templates.is_dir():
        shutil.copytree(component.templates, data / "templates", ignore=_CACHED)
    if component.files.is_dir():
        shutil.copytree(component.files, tree, symlinks=True, ignore=_CACHED, dirs_exist_ok=True)
    if component.units.is_dir():
        units = tree / "etc/systemd/system"
        shutil.copytree(component.units, units, symlinks=True, ignore=_CACHED, dirs_exist_ok=True)
        for unit in sorted(path for path in component.units.iterdir() if path.is_file()):
            _enable(units, unit)


def _enable(units: Path, unit: Path) -> None:
    """Do what `systemctl enable` would do for the unit's WantedBy= (systemd.unit(5))."""
    parser = configparser.RawConfigParser(strict=False, allow_no_value=True)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read_string(unit.read_text())
    for target in parser.get("Install", "WantedBy", fallback="").split():
        wants = units / f"{target}.wants"
        wants.mkdir(exist_ok=True)
        (wants / unit.name).symlink_to(f"../{unit.name}")


def _add_repart_definitions(folder: Path, profile: Profile) -> None:
    folder.mkdir(parents=True)
    for number, partition in enumerate(profile.partitions, start=1):
        (folder / f"{number * 10}-{partition.name}.conf").write_text(repart_definition(partition))


def repart_definition(partition: Partition) -> str:
    """Describe a partition for systemd-repart (repart.d(5)).

    Every fixed size is stated as minimum and maximum: without the maximum repart grows the partition.
    """
    lines = ["[Partition]", f"Type={partition.type}", f"Label={partition.label}"]
    if partition.size:
        lines += [f"SizeMinBytes={partition.size}", f"SizeMaxBytes={partition.size}"]
    if partition.format:
        lines.append(f"Format={partition.format}")
    if partition.content is Content.ROOT:
        lines.append("GrowFileSystem=no")
    return "\n".join(lines) + "\n"
