"""Cold builds of the x64 image against a bare mmdebstrap of its packages and against mkosi, and rebuilds.

All work in tools trees of Debian 13 that are there beforehand, and fetch from the same archive. They take turns; the
best of each counts, since whatever else the computer does only makes it slower.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

from benchmarks.peers.bare import bare_mmdebstrap
from benchmarks.peers.mkosi import MKOSI_TOOLS, run_mkosi
from builder.archive import Archive
from builder.build import SOURCE, open_workshop
from builder.cache import Cache
from builder.packages import package_layer
from builder.profile import load_profile
from builder.progress import Stages
from builder.sandbox import remove_tree
from builder.tools import open_tools
from builder.workshop import Stage
from stack.component import load_components
from tests.images.bench import SITE, Bench, new_bench

_ROUNDS = 2
_REBUILDS = 3
_BARE_TARGET = 1.3
_SITE_TARGET = 3
_CODE_TARGET = 20

_T = TypeVar("_T")


def main() -> None:
    """Measure, and print a table in Markdown."""
    cache = Cache(Cache.default().root, remove_tree)
    archive = Archive.from_environment()
    shop = open_workshop(cache, archive, Stages())
    mkosi = open_tools(MKOSI_TOOLS, cache, archive, Stages())
    layer = package_layer(shop, load_profile(SOURCE / "profiles/x64"), load_components(SOURCE / "components"))
    bare, ours, theirs = [], [], []
    with tempfile.TemporaryDirectory() as results:
        for number in range(_ROUNDS):
            folder = Path(results, str(number))
            folder.mkdir()
            bare.append(_timed(partial(bare_mmdebstrap, shop))[0])
            with new_bench(folder, (Stage.TOOLS,)) as bench:
                seconds, (built, _) = _timed(partial(bench.build, "cold"))
                ours.append(seconds)
                if number == _ROUNDS - 1:
                    site, code = _rebuilds(bench)
            our_size = _image(built).stat().st_size
            with cache.workspace() as work:
                seconds, image = _timed(partial(run_mkosi, mkosi, layer.initrd, work))
                theirs.append(seconds)
                their_size = image.stat().st_size
    cold = min(ours)
    print("| what | seconds | ratio | target |")
    print("|---|---|---|---|")
    print(f"| bare mmdebstrap | {min(bare):.1f} | 1 | |")
    print(f"| cold build | {cold:.1f} | {cold / min(bare):.2f} | ≤ {_BARE_TARGET} |")
    print(f"| mkosi {mkosi.versions['mkosi']} | {min(theirs):.1f} | {min(theirs) / min(bare):.2f} | slower than ours |")
    print(f"| rebuild after a change of site.yaml | {site:.1f} | {site / cold:.3f} of cold | ≤ {_SITE_TARGET} s |")
    print(f"| rebuild after a change of our code | {code:.1f} | {code / cold:.3f} of cold | ≤ {_CODE_TARGET} s |")
    print(f"\nThe compressed image has {our_size / 1e6:.0f} MB, mkosi's {their_size / 1e6:.0f} MB.")


def _rebuilds(bench: Bench) -> tuple[float, float]:
    """Give the best seconds of a build after a change of site.yaml, and after one of a module for the device."""
    sites = [_timed(partial(bench.build, "site", SITE.replace("alice", f"alice{n}")))[0] for n in range(_REBUILDS)]
    codes = []
    source = bench.checkout / "home/__init__.py"
    text = source.read_text(encoding="utf-8")
    for number in range(_REBUILDS):
        source.write_text(f"{text}\nCHANGED = {number}\n", encoding="utf-8")
        codes.append(_timed(partial(bench.build, "code"))[0])
    return min(sites), min(codes)


def _image(result: Path) -> Path:
    (image,) = result.glob("*.img.zst")
    return image


def _timed(work: Callable[[], _T]) -> tuple[float, _T]:
    started = time.monotonic()
    made = work()
    return time.monotonic() - started, made


if __name__ == "__main__":
    main()
