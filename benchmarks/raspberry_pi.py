"""Builds of the Raspberry Pi image on this computer, against those of the x64 image in the same run."""

from __future__ import annotations

from functools import partial

from benchmarks.kit.checkout import Checkout, image_of
from benchmarks.kit.report import Row, best, megabytes, show, timed
from builder.archive import Archive
from builder.build import SOURCE
from builder.cache import Cache
from builder.foreign import FOREIGN_TOOLS
from builder.progress import Stages
from builder.sandbox import check_namespaces, remove_tree
from builder.tools import BUILD_TOOLS, open_tools

_ROUNDS = 2
_SITE = (SOURCE / "examples/home.yaml").read_text(encoding="utf-8")
_PI = "raspberrypi"


def main() -> None:
    """Measure and print a table."""
    check_namespaces()
    cache = Cache(Cache.default().root, remove_tree)
    stages = Stages()
    for tree in (BUILD_TOOLS, FOREIGN_TOOLS):  # so that the archive is as near to all that follows
        open_tools(tree, cache, Archive.from_environment(), stages)
    cold_x64, cold, site, code = list[float](), list[float](), list[float](), list[float]()
    with cache.workspace() as folder:
        checkout = Checkout(folder)
        with stages.stage("The first builds of all", "with their build tools"):
            first, _ = timed(lambda: checkout.build(_SITE, _PI))
            checkout.build(_SITE)
        for number in range(1, _ROUNDS + 1):
            with stages.stage(f"Round {number} of {_ROUNDS}"):
                checkout.forget()
                cold_x64.append(timed(lambda: checkout.build(_SITE))[0])
                checkout.forget()
                cold.append(timed(lambda: checkout.build(_SITE, _PI))[0])
                changed = _SITE.replace("bob", f"bob{number}")
                site.append(timed(partial(checkout.build, changed, _PI))[0])
                checkout.change_code()
                seconds, result = timed(lambda: checkout.build(_SITE, _PI))
                code.append(seconds)
        size = image_of(result).stat().st_size
    show(
        [
            Row("cold build, x64", best(cold_x64)),
            Row("cold build, Raspberry Pi", best(cold), f"{min(cold) / min(cold_x64):.2f} of x64's", "≤ 4"),
            Row("first build of all, with its tools", f"{first:.1f} s", f"{first / min(cold):.2f} of a cold build"),
            Row("build after a change of site.yaml", best(site), "", "≤ 3 s"),
            Row("build after a change of project code", best(code), "", "≤ 20 s"),
            Row("compressed image", megabytes(size)),
        ]
    )


if __name__ == "__main__":
    main()
