"""The package layer: Debian's packages installed for one architecture, the slow part of a build.

It is a function of the package set, the archive's state and the architecture; nothing of ours but hooks is in it.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from builder.archive import SUITE, Archive
from builder.cache import content_id, tree_digests
from builder.errors import ToolError
from builder.profile import Profile
from builder.progress import Advance
from builder.workshop import Workshop
from stack.component import Component

BUILD_EPOCH = 1_793_491_200
"""Modification time (seconds since 1970) of all that a build makes up; 2026-11-01, this version's date."""

_KIND = "packages"
_DIGEST = "digest"
MAXIMUM_AGE = 24 * 3600
"""Seconds after which a package layer is built anew."""

_HOOK = Path(__file__).with_name("package-layer.sh")


@dataclass(frozen=True)
class PackageLayer:
    """A finished package layer.

    Args:
        folder: holds `root.tar` (uncompressed, sorted, without kernel and device nodes), `vmlinuz`, `initrd`,
            `packages.tsv` and the loader's files.
        identifier: its content id.
    """

    folder: Path
    identifier: str

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
    def loader(self) -> Path:
        """The folder with systemd's `*.efi` files."""
        return self.folder / "efi"

    def packages(self) -> dict[str, str]:
        """Installed packages: `name:architecture` to version."""
        rows = (line.split("\t") for line in (self.folder / "packages.tsv").read_text().splitlines())
        return {f"{name}:{architecture}": version for name, version, architecture in rows}


def package_layer(
    shop: Workshop, profile: Profile, components: Sequence[Component], *, refresh: bool = False
) -> PackageLayer:
    """Give the package layer of a profile; it is built when there is none of the last 24 hours.

    Args:
        refresh: build it anew, to take in what Debian's archive has published since.

    Raises:
        BuildError: the archive cannot be reached and there is no older layer, or a package does not install.
    """
    inputs = _inputs(shop.archive, profile, components)
    identifier = content_id(inputs)
    old = shop.cache.find(_KIND, identifier)
    replace = old is not None and (refresh or _age(old) > MAXIMUM_AGE)
    try:
        entry = shop.stage(
            "Package layer",
            _KIND,
            inputs,
            lambda made, advance: _build(made, shop, profile, components, advance),
            "Debian packages; a few minutes",
            replace=replace,
        )
    except ToolError as error:
        if old is None or refresh:
            raise
        shop.stages.say(
            f"The packages of {_age(old) / 3600:.0f} hours ago are used, since there are no newer ones:\n{error}"
        )
        entry = old
    return _layer(entry)


def _layer(entry: Path) -> PackageLayer:
    # The archive's state is known only by what came of it: a layer is what its bits are.
    return PackageLayer(entry, (entry / _DIGEST).read_text())


def _inputs(archive: Archive, profile: Profile, components: Sequence[Component]) -> dict[str, object]:
    return {
        "suite": SUITE,
        "mirrors": archive.mirrors,
        "epoch": BUILD_EPOCH,
        "architecture": profile.architecture,
        "packages": package_names(profile, components),
        "accounts": _accounts(components),
        "initramfs": tree_digests(profile.initramfs),
        "hooks": [component.package_hook.read_text() for component in _with_hook(components)],
        "common hook": _HOOK.read_text(),
    }


def package_names(profile: Profile, components: Sequence[Component]) -> list[str]:
    """List the Debian packages that a profile and the components ask for, without what those depend on."""
    return sorted({*profile.packages, *(name for component in components for name in component.packages)})


def _with_hook(components: Iterable[Component]) -> list[Component]:
    return [component for component in components if component.package_hook.is_file()]


def _age(entry: Path) -> float:
    return time.time() - (entry / "packages.tsv").stat().st_mtime


def _build(made: Path, shop: Workshop, profile: Profile, components: Sequence[Component], advance: Advance) -> None:
    work = made.parent
    scratch = work / "scratch"
    scratch.mkdir()
    inputs = work / "inputs"
    inputs.mkdir()
    for name, text in _accounts(components).items():
        (inputs / name).write_text(text)
    shutil.copytree(profile.initramfs, inputs / "initramfs")
    for number, component in enumerate(_with_hook(components)):
        (inputs / f"hook-{number:02}.sh").write_text(component.package_hook.read_text())
    shutil.copy(_HOOK, inputs / "package-layer.sh")
    script, given, results = (shop.tools.inside(path) for path in (inputs / "package-layer.sh", inputs, made))
    shop.tools.run(
        [
            "mmdebstrap",
            "--variant=minbase",
            "--mode=root",
            f"--arch={profile.architecture}",
            f"--include={','.join(package_names(profile, components))}",
            *shop.archive.path_exclusions,
            # Done by our own step; mmdebstrap's would make folders anew whose owner depends on who builds.
            "--skip=cleanup/apt",
            # Users that own something on /data exist before a package could number them by chance.
            f'--essential-hook=sh {script} accounts "$1" {given}',
            f'--customize-hook=sh {script} finish "$1" {given} {results}',
            "--verbose",
            SUITE,
            f"{results}/root.tar",
            *shop.archive.mirrors,
        ],
        # The kernel's installation would make an initramfs once for every package that touches it.
        environment={"SOURCE_DATE_EPOCH": str(BUILD_EPOCH), "INITRD": "No", "DEBIAN_FRONTEND": "noninteractive"},
        on_line=shop.archive.counter(advance),
        scratch=scratch,
    )
    (made / _DIGEST).write_text(content_id(tree_digests(made)))


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
