"""The package layer: Debian's packages installed for one architecture, the slow part of a build.

It is a function of the package set, the archive's state and the architecture; nothing of ours but hooks is in it.
A look at the archive holds for 24 hours. After that, or on demand, a build looks again, which takes seconds, and makes
the layer anew only when Debian has published something.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from builder import foreign
from builder.archive import MAIN, STATE_SCRIPT, SUITE, Archive, State, last_state, look_at, remember_state
from builder.cache import Entry
from builder.digests import content_id, tree_digests
from builder.errors import ToolError
from builder.lock import Lock, installed_packages, packages_from_index, read_lock
from builder.locked import check_fit, check_installed, gather
from builder.profile import Profile
from builder.progress import Advance
from builder.sandbox import Sandbox
from builder.tools import newest_tools, open_tools
from builder.workshop import Stage, Workshop, WouldMakeError
from stack.component import Component

BUILD_EPOCH = 1_793_491_200
"""Modification time (seconds since 1970) of all that a build makes up; 2026-11-01, this version's date."""

LOCK_NAME = "packages.lock"
"""The record of all installed packages, in a package layer and in a result's folder."""

_DIGEST = "digest"
_CODE = (*foreign.CODE, "packages.py", "package-layer.sh", "archive.py", "lock.py", "locked.py", "locked.sh")
_HOOK = Path(__file__).with_name("package-layer.sh")

ARCHIVE = "archive"
"""The input that is the archive's state; it is known for sure only when the layer is made."""


@dataclass(frozen=True)
class PackageLayer:
    """A finished package layer.

    Args:
        folder: holds `root.tar` (uncompressed, sorted, without kernel and device nodes), `vmlinuz`, `initrd`,
            `packages.lock` and what else belongs on the boot partition.
        digest: over all that is in the folder. The layer is what its bits are: when tools or archive have changed and
            these have not, nothing is made anew from them.
    """

    folder: Path
    digest: str

    @property
    def tar(self) -> Path:
        """The root file system."""
        return self.folder / "root.tar"

    @property
    def kernel(self) -> Path:
        """The kernel, for the boot partition."""
        return self.folder / "vmlinuz"

    @property
    def initrd(self) -> Path:
        """The initramfs that fits the kernel."""
        return self.folder / "initrd"

    @property
    def boot_files(self) -> Path:
        """The folder with what the profile's `boot-files.sh` has collected."""
        return self.folder / "boot"

    @property
    def kernel_version(self) -> str:
        """The kernel's release, as uname(1) prints it."""
        return (self.folder / "kernel-version").read_text()

    def lock(self) -> Lock:
        """The installed packages, with the digests of their files."""
        return read_lock(self.folder / LOCK_NAME)

    def packages(self) -> dict[str, str]:
        """Installed packages: `name:architecture` to version."""
        return {f"{one.name}:{one.architecture}": one.version for one in self.lock().packages}


def package_layer(
    shop: Workshop, profile: Profile, components: Sequence[Component], *, refresh: bool = False
) -> PackageLayer:
    """Give the package layer of a profile, made from the archive as the last look at it has shown it.

    Args:
        refresh: look at the archive, however fresh the last look is.

    Raises:
        BuildError: the archive cannot be reached and there is no older layer, or a package does not install.
    """
    shop = _suited(shop, profile)
    inputs = shop.complete(_inputs(shop.archive, profile, components), _CODE)
    older = _same_but_for_the_archive(shop, inputs)
    state = last_state(shop.cache, shop.archive, profile.architecture)
    try:
        if older and not shop.planning and (refresh or not (state and state.fresh)):
            with shop.stages.stage("Look at the archive"):
                state = look_at(shop.cache, shop.archive, profile.architecture, shop.tools)
        if found := _find(shop, inputs, state):
            return _layer(found)
        if foreign.is_foreign(profile.architecture) and not shop.planning:
            # The nearer in time, the more of these tools have the versions that are being installed.
            shop = _suited(shop, profile, refresh=True)
            inputs = shop.complete(_inputs(shop.archive, profile, components), _CODE)
        return _layer(_make(shop, inputs, profile, components))
    except ToolError as error:
        entry = shop.cache.find(Stage.PACKAGES, older[-1].identifier) if older and not refresh else None
        if entry is None:
            raise
        hours = (time.time() - older[-1].made) / 3600
        shop.stages.say(f"The packages of {hours:.0f} hours ago are used, since there are no newer ones:\n{error}")
        return _layer(entry)


def locked_layer(
    shop: Workshop, profile: Profile, components: Sequence[Component], lock: Lock, folder: Path | None
) -> PackageLayer:
    """Give the package layer that has exactly the packages of a lock.

    Args:
        folder: `.deb` files to take them from; None fetches them from the archive.

    Raises:
        BuildError: a package is not to be had, or the lock is for something else.
    """
    check_fit(lock, profile.name, profile.architecture, package_names(profile, components))
    shop = _suited(shop, profile)
    inputs = {**_inputs(shop.archive, profile, components), "lock": lock.text()}
    for key in ("mirrors", "suites", "areas"):
        del inputs[key]  # by their digests the packages are the same from everywhere

    def make(made: Path, advance: Advance) -> None:
        debs = made.parent / "debs"
        debs.mkdir()
        source = gather(lock, debs, shop.tools, shop.archive, folder)
        _build(made, shop, profile, components, advance, (source,))
        check_installed(lock, PackageLayer(made, "").lock().packages)

    return _layer(shop.stage(Stage.PACKAGES, inputs, _CODE, make, "Debian packages of a lock; a few minutes"))


def install(shop: Workshop, profile: Profile, components: Sequence[Component], work: Path) -> PackageLayer:
    """Install a package layer from the archive as it is now, and keep nothing of it: for comparisons.

    Args:
        work: an empty folder below the cache.

    Raises:
        BuildError: the archive cannot be reached, or a package does not install.
    """
    shop = _suited(shop, profile)
    made = work / "layer"
    made.mkdir()
    _build(made, shop, profile, components, lambda *_: None, shop.archive.mirrors)
    return _layer(made)


def _suited(shop: Workshop, profile: Profile, *, refresh: bool = False) -> Workshop:
    """Give a workshop with the archive's suites and the tools that a profile needs."""
    plain = shop.archive.widened((), (MAIN,))
    tools = shop.tools
    if foreign.is_foreign(profile.architecture):
        if shop.planning:
            tree = newest_tools(foreign.FOREIGN_TOOLS, shop.cache, plain)
            tools = Sandbox(tree.folder, shop.cache.root) if tree else tools
        else:
            tools = open_tools(foreign.FOREIGN_TOOLS, shop.cache, plain, shop.stages, refresh=refresh)
    return replace(shop, archive=plain.widened(profile.suites, profile.areas), tools=tools)


def _same_but_for_the_archive(shop: Workshop, inputs: Mapping[str, object]) -> list[Entry]:
    """List the layers that differ only in the archive's state, the oldest first."""
    wanted = content_id(inputs)
    known = [entry for entry in shop.cache.entries() if entry.kind == Stage.PACKAGES]
    same = [e for e in known if content_id({k: v for k, v in e.inputs.items() if k != ARCHIVE}) == wanted]
    return sorted(same, key=lambda entry: entry.made)


def _find(shop: Workshop, inputs: Mapping[str, object], state: State | None) -> Path | None:
    if state is None:
        return None
    entry = shop.cache.find(Stage.PACKAGES, content_id({**inputs, ARCHIVE: state.digest}))
    if entry:
        shop.stages.reused(Stage.PACKAGES.label)
    return entry


def _make(shop: Workshop, inputs: Mapping[str, object], profile: Profile, components: Sequence[Component]) -> Path:
    if shop.planning:
        raise WouldMakeError(Stage.PACKAGES, inputs)
    title = Stage.PACKAGES.label
    with shop.stages.stage(title, "Debian packages; a few minutes") as advance:

        def make(made: Path) -> Mapping[str, object]:
            digest = _build(made, shop, profile, components, advance, shop.archive.mirrors)
            remember_state(shop.cache, shop.archive, profile.architecture, digest)
            return {ARCHIVE: digest}

        return shop.cache.produce(Stage.PACKAGES, title, inputs, make)


def _layer(entry: Path) -> PackageLayer:
    return PackageLayer(entry, (entry / _DIGEST).read_text())


def _inputs(archive: Archive, profile: Profile, components: Sequence[Component]) -> dict[str, object]:
    return {
        "profile": profile.name,
        "suite": SUITE,
        "mirrors": list(archive.mirrors),
        "suites": list(archive.suites),
        "areas": list(archive.areas),
        "epoch": BUILD_EPOCH,
        "architecture": profile.architecture,
        "packages": _requests(profile, components),
        "accounts": _accounts(components),
        "initramfs": tree_digests(*profile.initramfs),
        "boot files": profile.boot_files.read_text(),
        "hooks": {component.name: component.package_hook.read_text() for component in _with_hook(components)},
    }


def package_names(profile: Profile, components: Sequence[Component]) -> list[str]:
    """List the Debian packages that a profile and the components ask for, without what those depend on."""
    return sorted(request.partition("/")[0] for request in _requests(profile, components))


def _requests(profile: Profile, components: Sequence[Component]) -> list[str]:
    """List what is asked for in apt-get(8)'s words: a package, or `PACKAGE/SUITE`."""
    return sorted({*profile.packages, *(name for component in components for name in component.packages)})


def _with_hook(components: Iterable[Component]) -> list[Component]:
    return [component for component in components if component.package_hook.is_file()]


def _build(
    made: Path,
    shop: Workshop,
    profile: Profile,
    components: Sequence[Component],
    advance: Advance,
    mirrors: Sequence[str],
) -> str:
    """Fill a folder with the layer; give the state of the archive that it was made from."""
    work = made.parent
    scratch = work / "scratch"
    scratch.mkdir()
    inputs = work / "inputs"
    inputs.mkdir()
    for name, text in _accounts(components).items():
        (inputs / name).write_text(text)
    for folder in profile.initramfs:
        shutil.copytree(folder, inputs / "initramfs", dirs_exist_ok=True)
    shutil.copy(profile.boot_files, inputs / "boot-files.sh")
    (made / "boot").mkdir()
    for number, component in enumerate(_with_hook(components)):
        (inputs / f"hook-{number:02}.sh").write_text(component.package_hook.read_text())
    shutil.copy(_HOOK, inputs / "package-layer.sh")
    across = foreign.Foreign()
    if foreign.is_foreign(profile.architecture):
        (work / "foreign").mkdir()
        across = foreign.prepare(shop.tools, work / "foreign")
    locked = tuple(mirrors) != shop.archive.mirrors
    script, given, results = (shop.tools.inside(path) for path in (inputs / "package-layer.sh", inputs, made))
    shop.tools.run(
        [
            *across.prefix,
            "mmdebstrap",
            *across.options,
            "--variant=minbase",
            "--mode=root",
            f"--arch={profile.architecture}",
            f"--include={','.join((package_names if locked else _requests)(profile, components))}",
            *(() if locked else shop.archive.options),
            *shop.archive.path_exclusions,
            # Done by our own step; mmdebstrap's would make folders anew whose owner depends on who builds.
            "--skip=cleanup/apt",
            # Users that own something on /data exist before a package could number them by chance.
            f'--essential-hook=sh {script} accounts "$1" {given}',
            f"--customize-hook=({STATE_SCRIPT}) >{shop.tools.inside(work / 'state')}",
            *across.after_packages,
            f'--customize-hook=sh {script} finish "$1" {given} {results}',
            *across.last_hook,
            "--verbose",
            SUITE,
            f"{results}/root.tar",
            *mirrors,
        ],
        # The kernel's installation would make an initramfs once for every package that touches it.
        environment={"SOURCE_DATE_EPOCH": str(BUILD_EPOCH), "INITRD": "No", "DEBIAN_FRONTEND": "noninteractive"},
        on_line=shop.archive.counter(advance),
        scratch=scratch,
    )
    installed = installed_packages((inputs / "status").read_text(encoding="utf-8"))
    packages = packages_from_index(installed, (inputs / "index").read_text(encoding="utf-8"))
    lock = Lock(profile=profile.name, suite=SUITE, architecture=profile.architecture, packages=packages)
    (made / LOCK_NAME).write_text(lock.text(), encoding="utf-8")
    (made / _DIGEST).write_text(content_id(tree_digests(made)))
    return (work / "state").read_text().strip()


def _accounts(components: Sequence[Component]) -> dict[str, str]:
    """Lines for passwd(5), group(5), shadow(5) and gshadow(5)."""
    users = [user for component in components for user in component.users]
    groups = [(user.name, user.uid) for user in users]
    groups += [(group.name, group.gid) for component in components for group in component.groups]
    members: dict[str, list[str]] = {name: [] for name, _ in groups}
    for user in users:
        for group in user.groups:
            members.setdefault(group, []).append(user.name)
    return {
        "passwd": "".join(f"{u.name}:x:{u.uid}:{u.uid}::{u.home}:/usr/sbin/nologin\n" for u in users),
        "group": "".join(f"{name}:x:{gid}:{','.join(members[name])}\n" for name, gid in groups),
        "shadow": "".join(f"{u.name}:!*:20000::::::\n" for u in users),
        "gshadow": "".join(f"{name}:!*::{','.join(members[name])}\n" for name, _ in groups),
    }
