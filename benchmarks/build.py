"""Building the x64 image: against a bare mmdebstrap and against mkosi, and after a change.

All fetch from the same archive and begin without a cache, in the same run, one after the other in every round. What
they have installed is compared: the numbers are of the same packages.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from functools import partial

from benchmarks.kit import mkosi, mmdebstrap
from benchmarks.kit.checkout import Checkout, image_of, lock_of
from benchmarks.kit.report import Row, best, megabytes, show, timed
from builder.archive import Archive
from builder.build import SOURCE
from builder.cache import Cache
from builder.errors import BuildError
from builder.lock import read_lock
from builder.packages import package_names
from builder.profile import load_profile
from builder.progress import Stages
from builder.sandbox import Sandbox, check_namespaces, remove_tree
from builder.tools import BUILD_TOOLS, open_tools
from stack.component import load_components

_ROUNDS = 2
_SITE = (SOURCE / "examples/home.yaml").read_text(encoding="utf-8")
_PROFILE = SOURCE / "profiles/x64"


@dataclass
class _Times:
    """Seconds on the wall clock, one for each round."""

    bare: list[float] = field(default_factory=list)
    bare_without_initramfs: list[float] = field(default_factory=list)
    mkosi: list[float] = field(default_factory=list)
    cold: list[float] = field(default_factory=list)
    site: list[float] = field(default_factory=list)
    code: list[float] = field(default_factory=list)


@dataclass
class _Bench:
    """Everything that is needed to measure; nothing of it is measured itself."""

    cache: Cache
    archive: Archive
    tools: Sandbox
    mkosi: Sandbox
    checkout: Checkout
    names: list[str]
    times: _Times = field(default_factory=_Times)
    sizes: dict[str, int] = field(default_factory=dict)

    def ours(self) -> frozenset[str]:
        """Build cold, then after each kind of change; gives the packages."""
        checkout, times = self.checkout, self.times
        checkout.forget()
        seconds, result = timed(lambda: checkout.build(_SITE))
        times.cold.append(seconds)
        self.sizes["ours"] = image_of(result).stat().st_size
        changed = _SITE.replace("bob@", f"robert{len(times.cold)}@")
        times.site.append(timed(lambda: checkout.build(changed))[0])
        checkout.change_code()
        times.code.append(timed(lambda: checkout.build(_SITE))[0])
        return frozenset(f"{one.name}={one.version}" for one in read_lock(lock_of(result)).packages)

    def bare(self, *, initramfs: bool) -> frozenset[str]:
        """Run a bare mmdebstrap; gives the packages."""
        times = self.times.bare if initramfs else self.times.bare_without_initramfs
        with self.cache.workspace() as work:
            install = partial(mmdebstrap.install, self.tools, self.archive, self.names, work, initramfs=initramfs)
            seconds, tar = timed(install)
            times.append(seconds)
            return mmdebstrap.packages_in(tar)

    def other(self, packages: frozenset[str]) -> frozenset[str]:
        """Let mkosi make an image of the packages that ours has; gives those that it has installed."""
        with self.cache.workspace() as work:
            definition = work / "definition"
            definition.mkdir()
            scratch = work / "scratch"
            scratch.mkdir()
            names = sorted(package.partition("=")[0] for package in packages)
            initramfs = load_profile(_PROFILE).initramfs
            mkosi.prepare(self.mkosi, "same-set", definition, packages=names, initramfs=initramfs)
            self.times.mkosi.append(timed(lambda: mkosi.build(self.mkosi, definition, scratch))[0])
            self.sizes["mkosi"] = (definition / "image.raw.zst").stat().st_size
            return mkosi.packages_in(definition)


def main() -> None:
    """Measure and print a table."""
    check_namespaces()
    cache = Cache(Cache.default().root, remove_tree)
    archive = Archive.from_environment()
    stages = Stages()
    tools = open_tools(BUILD_TOOLS, cache, archive, stages)
    other = mkosi.open_mkosi(cache, archive, stages)
    names = package_names(load_profile(_PROFILE), load_components(SOURCE / "components"))
    with cache.workspace() as folder:
        bench = _Bench(cache, archive, tools, other, Checkout(folder), names)
        with stages.stage("The first build of all", "with its build tools"):
            first, _ = timed(lambda: bench.checkout.build(_SITE))
        for number in range(1, _ROUNDS + 1):
            with stages.stage(f"Round {number} of {_ROUNDS}: darkpipe build"):
                packages = bench.ours()
            with stages.stage(f"Round {number} of {_ROUNDS}: mmdebstrap"):
                _check_same("mmdebstrap", packages, bench.bare(initramfs=True))
            with stages.stage(f"Round {number} of {_ROUNDS}: mmdebstrap, no initramfs"):
                _check_same("mmdebstrap", packages, bench.bare(initramfs=False))
            with stages.stage(f"Round {number} of {_ROUNDS}: mkosi"):
                _check_same("mkosi", packages, bench.other(packages))
    show(_rows(bench, first, len(packages)))
    print(f"\n{mmdebstrap.shown(archive, names)}")


def _check_same(peer: str, ours: frozenset[str], theirs: frozenset[str]) -> None:
    if difference := sorted(ours ^ theirs):
        listed = " ".join(difference[:10])
        raise BuildError(
            f"{peer} has installed other packages than we have, {len(difference)} in all: {listed}",
            "if Debian has published something in these minutes, run it again",
        )


def _rows(bench: _Bench, first: float, packages: int) -> list[Row]:
    times, sizes = bench.times, bench.sizes
    cold, bare, least = min(times.cold), min(times.bare), min(times.bare_without_initramfs)
    peer = min(times.mkosi)
    return [
        Row(f"bare mmdebstrap, {packages} packages", best(times.bare)),
        Row("the same without an initramfs", best(times.bare_without_initramfs)),
        Row("mkosi, the same packages and initramfs", best(times.mkosi)),
        Row("cold build", best(times.cold), f"{cold / bare:.2f} of mmdebstrap", "≤ 1.3"),
        Row("", "", f"{cold / least:.2f} of mmdebstrap without an initramfs"),
        Row("", "", f"{cold / peer:.2f} of mkosi", "< 1"),
        Row("first build of all, with its build tools", best([first]), f"{first / cold:.2f} of a cold build"),
        Row("build after a change of site.yaml", best(times.site), "", "≤ 3 s"),
        Row("build after a change of project code", best(times.code), "", "≤ 20 s"),
        Row("compressed image", megabytes(sizes["ours"]), f"{sizes['ours'] / sizes['mkosi']:.2f} of mkosi's"),
        Row("mkosi's compressed image", megabytes(sizes["mkosi"])),
    ]


if __name__ == "__main__":
    try:
        main()
    except BuildError as error:
        sys.exit(f"Error: {error}" + (f"\nHint: {error.hint}" if error.hint else ""))
