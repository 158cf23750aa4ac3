"""Why a stage was made, or would be: what it is made from now against what it was made from before."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from rich.console import Console

from builder.archive import FRESH, Archive, last_state
from builder.boot_partition import boot_partitions
from builder.build import SOURCE, image_inputs
from builder.cache import Cache, Entry
from builder.differences import differences
from builder.lock import Lock
from builder.packages import ARCHIVE, LOCK_NAME, PackageLayer, locked_layer, package_layer
from builder.profile import Content, Profile
from builder.progress import Stages
from builder.project import project_layer
from builder.root import root_tar, verified_root
from builder.sandbox import Sandbox
from builder.tools import BUILD_TOOLS, newest_tools
from builder.workshop import Stage, Workshop, WouldMakeError
from model.site import Site
from stack.component import load_components

_LOCK = "lock"
"""The input that a package layer has when it is held to a lock."""

_MOST = 30
"""Lines about packages; a longer list helps nobody."""


class Fate(StrEnum):
    """What the next build does with a stage."""

    REUSED = "reused"
    MADE = "made"
    FOLLOWS = "follows"
    """It depends on what comes of an earlier stage that is made."""


@dataclass(frozen=True)
class Verdict:
    """What the next build does with a stage, and why.

    Args:
        entry: the result at hand, for a stage that is reused.
        before: the result that it is compared with; None when there never was another.
        reasons: what differs between the two, a line each.
        causes: the earlier stages that are made, for one that follows from them.
        note: what else decides, such as the age of a look at the archive.
    """

    stage: Stage
    fate: Fate
    entry: Entry | None = None
    before: Entry | None = None
    reasons: tuple[str, ...] = ()
    causes: tuple[Stage, ...] = ()
    note: str = ""


def explain(
    cache: Cache, archive: Archive, profile: Profile, site: Site | None, lock: Lock | None = None
) -> dict[Stage, Verdict]:
    """Judge all stages without making anything and without a network.

    Args:
        site: what the image would be made for; None leaves it out of the comparison.
        lock: what the build would be held to.

    Raises:
        BuildError: the lock is for something else.
    """
    tree = newest_tools(BUILD_TOOLS, cache, archive)
    if tree is None:
        first = Verdict(Stage.TOOLS, Fate.MADE)
        return {s: first if s is Stage.TOOLS else Verdict(s, Fate.FOLLOWS, causes=(Stage.TOOLS,)) for s in Stage}
    shop = Workshop(Sandbox(tree.folder, cache.root), cache, archive, Stages(Console(quiet=True)), planning=True)
    verdicts = {Stage.TOOLS: _reused(cache.entries(), tree)}
    _judge_layers(shop, profile, site, lock, verdicts)
    return verdicts


def _judge_layers(
    shop: Workshop, profile: Profile, site: Site | None, lock: Lock | None, verdicts: dict[Stage, Verdict]
) -> None:
    """Go the way of `build_image`, as far as results are at hand."""
    components = load_components(SOURCE / "components")
    found: dict[Stage, Path] = {}
    missing: dict[Stage, Mapping[str, object]] = {}
    with _noting(missing):
        if lock:
            packages = locked_layer(shop, profile, components, lock, None)
        else:
            packages = package_layer(shop, profile, components)
        found[Stage.PACKAGES] = packages.folder
    with _noting(missing):
        project = project_layer(shop, profile, components, SOURCE)
        found[Stage.PROJECT] = project.tar.parent
    if not missing:
        with _noting(missing):
            tar = root_tar(shop, profile, packages, project)
            found[Stage.TAR] = tar.path.parent
            root = verified_root(shop, profile, tar)
            found[Stage.ROOT] = root.folder
            boot = boot_partitions(shop, profile, packages, root)
            found[Stage.BOOT] = boot[Content.BOOT].image.parent
            missing[Stage.IMAGE] = image_inputs(shop, site, profile, root, boot)
    entries = shop.cache.entries()
    for stage in Stage:
        if stage in found:
            verdicts[stage] = _reused(entries, next(entry for entry in entries if entry.folder == found[stage]))
        elif stage in missing:
            verdicts[stage] = _made(entries, stage, missing[stage])
        elif stage not in verdicts:
            verdicts[stage] = Verdict(stage, Fate.FOLLOWS, causes=tuple(missing))
    if Stage.PACKAGES in found and not lock:
        verdicts[Stage.PACKAGES] = replace(verdicts[Stage.PACKAGES], note=_age_note(shop, profile))


@contextmanager
def _noting(missing: dict[Stage, Mapping[str, object]]) -> Iterator[None]:
    try:
        yield
    except WouldMakeError as would:
        missing[would.stage] = would.inputs


def _reused(entries: Sequence[Entry], entry: Entry) -> Verdict:
    """Tell why the result at hand was made: against the one that was made before it."""
    stage = Stage(entry.kind)
    older = [o for o in entries if _comparable(o, entry.kind, entry.name, entry.inputs) and o.made < entry.made]
    before = max(older, key=lambda other: other.made, default=None)
    reasons = _reasons(before, entry) if before else ()
    return Verdict(stage, Fate.REUSED, entry, before, reasons)


def _made(entries: Sequence[Entry], stage: Stage, inputs: Mapping[str, object]) -> Verdict:
    """Tell why a build would make a result: against the last one that was used."""
    known = [entry for entry in entries if _comparable(entry, stage, stage.label, inputs)]
    if not known:
        return Verdict(stage, Fate.MADE)
    before = known[-1]
    if (
        stage is Stage.PACKAGES
        and _LOCK not in inputs
        and differences({**before.inputs, ARCHIVE: ""}, {**inputs, ARCHIVE: ""})
    ):
        inputs = {**inputs, ARCHIVE: before.inputs[ARCHIVE]}  # what the archive's state will be is not known yet
    old = {key: value for key, value in before.inputs.items() if key in inputs or key != "site"}
    return Verdict(stage, Fate.MADE, before=before, reasons=tuple(_in_words(differences(old, inputs))))


def _comparable(entry: Entry, kind: str, name: str, inputs: Mapping[str, object]) -> bool:
    # A layer that is held to a lock does not follow the archive: the two kinds have no common history.
    held = (_LOCK in entry.inputs) == (_LOCK in inputs)
    alike = _profile(entry.inputs) == _profile(inputs)
    return entry.kind == kind and entry.name == name and bool(entry.inputs) and held and alike


def _profile(inputs: Mapping[str, object]) -> object:
    """Name the platform that a result is for."""
    profile = inputs.get("profile")
    return profile.get("name") if isinstance(profile, Mapping) else profile


def _reasons(before: Entry, entry: Entry) -> tuple[str, ...]:
    reasons = _in_words(differences(before.inputs, entry.inputs))
    return (*reasons, *_changed_packages(before.folder, entry.folder))


def _in_words(lines: Sequence[str]) -> list[str]:
    changed = "Debian's archive: "
    published = "Debian has published something since (its package indices have changed)"
    return [published if line.startswith(changed) else line for line in lines]


def _changed_packages(old: Path, new: Path) -> list[str]:
    """Name the packages whose versions differ in two package layers; nothing for other stages."""
    if not all((folder / LOCK_NAME).is_file() for folder in (old, new)):
        return []
    lines = differences(
        {"package": PackageLayer(old, "").packages()},
        {"package": PackageLayer(new, "").packages()},
    )
    return lines[:_MOST] + ([f"… and {len(lines) - _MOST} more packages"] if len(lines) > _MOST else [])


def _age_note(shop: Workshop, profile: Profile) -> str:
    archive = shop.archive.widened(profile.suites, profile.areas)
    state = last_state(shop.cache, archive, profile.architecture)
    assert state is not None  # without one no layer would have been found
    hours = (time.time() - state.seen) / 3600
    if state.fresh:
        holds = f"which holds for {FRESH // 3600}; `build --refresh` looks now."
        return f"Debian's archive was looked at {hours:.0f} hours ago, {holds}"
    return (
        f"Debian's archive was looked at {hours:.0f} hours ago; the next build looks again, and makes the layer anew "
        "if Debian has published something."
    )
