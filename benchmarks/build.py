"""A cold build of the x64 image against a bare mmdebstrap of the same packages, and rebuilds.

Both work in the same tools tree and fetch from the same archive; the tools tree is there beforehand.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from builder.archive import SUITE, Archive
from builder.build import SOURCE, build_image, open_workshop
from builder.cache import Cache
from builder.packages import package_names
from builder.profile import load_profile
from builder.progress import Stages
from builder.sandbox import Sandbox, remove_tree
from builder.workshop import Workshop
from model.document import read_site
from stack.component import load_components

_TARGET = 1.3


def main() -> None:
    """Measure once each and print a table."""
    ready = open_workshop(Cache(Cache.default().root, remove_tree), Archive.from_environment(), Stages())
    with tempfile.TemporaryDirectory(dir=ready.cache.root) as folder:
        cache = Cache(Path(folder), remove_tree)
        shop = Workshop(Sandbox(ready.tools.tree, cache.root), cache, ready.archive, ready.stages)
        bare = _seconds(lambda: _bare_mmdebstrap(shop))
        site = read_site(SOURCE / "examples/home.yaml")
        profile = load_profile(SOURCE / "profiles/x64")
        output = cache.root / "out"
        cold = _seconds(lambda: build_image(shop, site, profile, output))
        changed = site.model_copy(update={"admin": site.users[-1].address})
        rebuilt = _seconds(lambda: build_image(shop, changed, profile, output))
        remove_tree(cache.root / "out")
    print(f"bare mmdebstrap of the same packages   {bare:6.1f} s")
    print(f"cold build of the x64 image            {cold:6.1f} s   {cold / bare:.2f} times (target: {_TARGET})")
    print(f"rebuild after a change of site.yaml    {rebuilt:6.1f} s")


def _bare_mmdebstrap(shop: Workshop) -> None:
    profile = load_profile(SOURCE / "profiles/x64")
    names = package_names(profile, load_components(SOURCE / "components"))
    with shop.cache.workspace() as work:
        scratch = work / "scratch"
        scratch.mkdir()
        options = ["--variant=minbase", "--mode=root", f"--include={','.join(names)}", "--quiet"]
        target = shop.tools.inside(work / "root.tar")
        shop.tools.run(["mmdebstrap", *options, SUITE, target, *shop.archive.mirrors], scratch=scratch)


def _seconds(work: Callable[[], object]) -> float:
    started = time.monotonic()
    work()
    return time.monotonic() - started


if __name__ == "__main__":
    main()
