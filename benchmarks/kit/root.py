"""The root file system of a home, whose daemons the benchmarks run, and a place for what they write."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from builder.archive import Archive
from builder.build import SOURCE, build_root_tar, open_workshop
from builder.cache import Cache
from builder.profile import load_profile
from builder.progress import Stages
from builder.sandbox import remove_tree
from tests.machine.machine import unpack


@contextmanager
def root_and_scratch() -> Iterator[tuple[Path, Path]]:
    """Give the unpacked root, which is built when the cache lacks it, and a folder that is removed afterwards.

    Raises:
        BuildError: it cannot be built.
    """
    cache = Cache(Cache.default().root, remove_tree)
    shop = open_workshop(cache, Archive.from_environment(), Stages())
    root = unpack(build_root_tar(shop, load_profile(SOURCE / "profiles/x64")).path, cache.root / "machine")
    scratch = Path(tempfile.mkdtemp(prefix="darkpipe-bench-", dir="/var/tmp"))
    try:
        yield root, scratch
    finally:
        shutil.rmtree(scratch)
