"""The root tar under test, and machines that run it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from builder.archive import Archive
from builder.build import SOURCE, build_root_tar, open_workshop
from builder.cache import Cache
from builder.profile import load_profile
from builder.progress import Stages
from builder.sandbox import remove_tree
from tests.machine.machine import Client, Machine, scratch_folder, unpack, why_not

TAR_VARIABLE = "DARKPIPE_ROOT_TAR"
"""Environment variable with the path of a root tar to test; without it the builder makes the one that images hold."""

PASSWORD = "correct horse battery staple"
"""Alice's and Dave's; its hash is in the seed."""

_HASH = "$argon2id$v=19$m=65536,t=3,p=4$LD3QgrbgHeQ1ZNn2eLPchQ$F1o6j8aDr6uyyD6dQd+6j1qElWujI4fv3Ql39q5o06E"

SEED = f"""\
version: 1
domains: [example.com, example.org, bücher.example]
admin: alice@example.com
disk: {{unlock: none}}
users:
  - {{address: alice@example.com, aliases: [sales@example.org, info@bücher.example], password: "{_HASH}"}}
  - {{address: bob@example.org, password: generate}}
  - {{address: dave@example.org, password: "{_HASH}"}}
"""


@pytest.fixture(scope="session")
def root() -> Path:
    """The unpacked root."""
    if reason := why_not():
        pytest.skip(reason)
    cache = Cache(Cache.default().root, remove_tree)
    named = os.environ.get(TAR_VARIABLE)
    if named:
        tar = Path(named)
    else:
        shop = open_workshop(cache, Archive.from_environment(), Stages())
        tar = build_root_tar(shop, load_profile(SOURCE / "profiles/x64")).path
    return unpack(tar, cache.root / "machine")


@pytest.fixture(scope="session")
def new_machine(root: Path) -> Iterator[Callable[[str], Machine]]:
    """Makes machines that are off; the argument is the seed on their boot partition, empty for none."""
    made: list[tuple[Machine, Path]] = []

    def make(seed: str) -> Machine:
        scratch = scratch_folder()
        machine = Machine(root, scratch)
        _share_patterns([other for other, _ in made], machine)
        made.append((machine, scratch))
        if seed:
            (machine.boot_partition / "darkpipe.yaml").write_text(seed)
        return machine

    yield make
    for machine, scratch in made:
        machine.stop()
        shutil.rmtree(scratch)


def _share_patterns(others: Iterable[Machine], machine: Machine) -> None:
    """Give a machine what rspamd of another one has compiled in ten seconds: all of them have the same processor."""
    folder = machine.data / "rspamd"
    folder.mkdir()
    for other in others:
        compiled = [path for path in other.data.glob("rspamd/*.hs*") if path.suffix in {".hs", ".hsmp", ".hsmc"}]
        if compiled:
            for path in compiled:
                # It replaces files as a whole, so that a link will do.
                (folder / path.name).hardlink_to(path)
            return


@pytest.fixture(scope="session")
def device(new_machine: Callable[[str], Machine]) -> Machine:
    """A device that was started for the first time with a seed for two people, and runs."""
    return new_machine(SEED).start()


@pytest.fixture
def client(device: Machine) -> Iterator[Client]:
    """Another computer in the device's LAN."""
    with device.lan() as client:
        yield client
