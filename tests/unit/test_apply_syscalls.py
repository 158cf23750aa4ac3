"""`darkpipe apply`, or a change of the accounts, is cut off, and meets a full or a broken disk, at each system call."""

from __future__ import annotations

import itertools
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path, PurePosixPath

import argon2
import pytest

import home.configure
import stack.certificate
import stack.dkim
from firstboot.seed import SeedError
from home.configure import change_accounts, configure
from home.store import Store, StoreError, read_accounts, write_accounts
from model.account_changes import add_user, remove_user
from model.accounts import Accounts
from model.document import SEED_NAME, SiteError, dump_site
from stack.apply import CURRENT, CheckError, Run, current, write_tree
from stack.certificate import CertificateError
from stack.dkim import DkimError
from stack.owners import Owners
from stack.render import File, RenderError
from stack.stack import Stack
from tests.memory import folder_in_memory
from tests.syscalls import Call, Ended, Fault, changing_calls, trace_function, why_not
from tests.unit.stack_samples import HASH, OwnOwners, accounts, sample_stack, site

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))

_TOLD = (CertificateError, CheckError, DkimError, OSError, RenderError, SeedError, SiteError, StoreError)
"""What the command line explains to a person; anything else is a bug."""

REFUSED = 3
CAROL = "carol@example.com"

Content = Mapping[PurePosixPath, tuple[int, bytes]]


class Act(StrEnum):
    """What is walked."""

    FIRST = "the first apply"  # it takes a seed over
    LATER = "a later apply"  # it finds other accounts, and another primary domain
    CHANGE = "a change of the accounts"


class Home:
    """A device's folders, and how they lay before the act that is walked.

    Args:
        folder: where all of it goes.
    """

    def __init__(self, folder: Path, act: Act) -> None:
        self._act = act
        self._stack = _stack(folder / "components")
        self._folder = folder / "home"
        self._before = folder / "before"
        self.scratch = folder
        self.data = self._folder / "data"
        self.boot = self._folder / "boot"
        self._store = Store(self.data, self._folder / "run/dry-run")
        for path in (self.data, self.boot, self._folder / "run"):
            path.mkdir(parents=True)
        self.old: Content = {}
        if act is Act.FIRST:
            bob = "  - {address: bob@example.org, password: generate}\n"
            (self.boot / SEED_NAME).write_text(dump_site(site(bob)))
        else:
            (self.boot / SEED_NAME).write_text(dump_site(site("  - {address: erin@example.org}\n")))
            self.apply()
            self.old = self.in_force()
        if act is Act.LATER:
            write_accounts(self._store.accounts, accounts(domains="example.org, example.com"))
        shutil.copytree(self._folder, self._before, symlinks=True)

    def apply(self) -> None:
        """Do what `darkpipe apply` does, also at the next start."""
        configure(self._stack, self._store, self._show)

    def act(self) -> None:
        """Do what is walked."""
        if self._act is Act.CHANGE:
            change_accounts(self._stack, self._store, _carol_for_erin, lambda passwords: self._show(str(passwords)))
        else:
            self.apply()

    def finish(self) -> None:
        """Start anew after an interruption, and do what is still to be done."""
        self.apply()
        if self._act is not Act.CHANGE:
            return
        left = [path for path in self.names() if path.suffix == ".new"]
        assert not left, f"the next start leaves {left}"
        stored = read_accounts(self._store.accounts)
        assert stored
        if stored.user(CAROL) is None:
            assert self.in_force() == self.old, "the configuration is not that of the accounts"
            self.act()

    def attempt(self) -> None:
        """Do it as the command line does: an expected error ends it, any other is a traceback."""
        try:
            self.act()
        except _TOLD as error:
            os.write(2, str(error).encode())
            os._exit(REFUSED)

    def go_back(self) -> None:
        """Lay everything as it was before."""
        shutil.rmtree(self._folder)
        shutil.copytree(self._before, self._folder, symlinks=True)

    def in_force(self) -> Content:
        """What the services read: files with their modes; nothing while there is no configuration."""
        generation = current(self._store.configurations)
        return {} if generation is None else _content(self._store.configurations / generation)

    def names(self) -> set[PurePosixPath]:
        """All paths on the disk, without those in generations."""
        store = self._store.configurations
        found = {path for path in self._folder.rglob("*") if store not in path.parents}
        return {PurePosixPath(path.relative_to(self._folder)) for path in found}

    def generations(self) -> set[str]:
        """All names in the store of configurations."""
        return {path.name for path in self._store.configurations.iterdir()}

    def in_force_is_whole(self) -> bool:
        """Whether `current` leads to a folder, or is not there yet."""
        link = self._store.configurations / CURRENT
        return link.exists() or not link.is_symlink()

    def _show(self, text: str) -> bool:
        with (self._folder / "console").open("a") as console:
            console.write(text)
        return True


def _carol_for_erin(before: Accounts) -> Accounts:
    """One whose password has to be made and shown for another one."""
    return remove_user(add_user(before, CAROL, None), "erin@example.org")


def _stack(folder: Path) -> Stack:
    sample_stack(folder, one=[["test", "-f", "{config}/one/main.conf"]], two=[["test", "-f", "{config}/two/secret"]])
    (folder / "agent").mkdir()
    volumes = '[{name: darkpipe, mode: "0755"}, {name: tls, mode: "0700"}, {name: srs, mode: "0700"}, {name: dkim}]'
    (folder / "agent/component.yaml").write_text(f"description: agent\nvolumes: {volumes}\n")
    return Stack.load(folder)


def _content(folder: Path) -> Content:
    return {
        PurePosixPath(path.relative_to(folder)): (
            stat.S_IMODE(path.stat().st_mode),
            b"" if path.is_dir() else path.read_bytes(),
        )
        for path in folder.rglob("*")
    }


@pytest.fixture
def folder() -> Iterator[Path]:
    with folder_in_memory() as made:
        yield made


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """No root, no boot partition of this computer, no costly hash or key; openssl judges a certificate once."""
    boot = folder / "home/boot"
    fits = stack.certificate._fits
    judged: dict[tuple[bytes, tuple[str, ...]], bool] = {}

    def remembered(path: Path, names: Sequence[str]) -> bool:
        key = (path.read_bytes(), tuple(names))
        if key not in judged:
            judged[key] = fits(path, names)
        return judged[key]

    @contextmanager
    def boot_partition() -> Iterator[Path]:
        yield boot

    monkeypatch.setattr(stack.certificate, "_fits", remembered)
    monkeypatch.setattr(home.configure, "boot_partition", boot_partition)
    monkeypatch.setattr(home.configure, "SystemOwners", OwnOwners)
    monkeypatch.setattr(stack.dkim, "_make", lambda algorithm: b"a key\n")
    monkeypatch.setattr(argon2.PasswordHasher, "hash", lambda _, password: HASH)


@dataclass(frozen=True)
class Walk:
    """An apply and the calls at which something can happen to it.

    Args:
        new: what it brings into force.
        names: the paths that are there afterwards.
    """

    device: Home
    calls: tuple[Call, ...]
    new: Content
    names: set[PurePosixPath]

    @classmethod
    def of(cls, device: Home) -> Walk:
        """Let it get through twice: the first time it loads what every later fork has then loaded already."""
        device.act()
        new, names = device.in_force(), device.names()
        device.go_back()
        clean = trace_function(device.attempt, device.scratch)
        assert clean.status == 0, clean.output
        return cls(device, tuple(changing_calls(clean.trace)), new, names)

    def meet(self, call: Call, fault: Fault) -> Ended:
        """Put a fault on one call, and look at what it leaves and how the next apply gets on."""
        self.device.go_back()
        ended = trace_function(self.device.attempt, self.device.scratch, (call, fault))
        assert self.device.in_force_is_whole(), f"{call}: the link in force leads nowhere"
        assert self.device.in_force() in (self.device.old, self.new), f"{call}: neither the old nor the new one"
        self.device.finish()
        assert self.device.in_force() == self.new, f"{call}: the next apply does not bring the new one into force"
        assert self.device.names() == self.names, f"{call}: rubbish"
        assert len(self.device.generations()) <= 3, f"{call}: {self.device.generations()}"
        return ended


@pytest.fixture(params=Act)
def device(request: pytest.FixtureRequest, folder: Path) -> Home:
    return Home(folder, request.param)


def test_cut_at_every_call(device: Home) -> None:
    walk = Walk.of(device)
    assert len(walk.calls) > 40
    for call in walk.calls:
        assert walk.meet(call, Fault.KILL).killed, f"{call}: not reached"


# A change meets every call that a later apply does, but those that make another certificate.
@pytest.mark.parametrize("device", [Act.FIRST, Act.CHANGE], indirect=True)
def test_every_call_fails(device: Home) -> None:
    """Our code makes no difference between a full and a broken disk; they take turns."""
    walk = Walk.of(device)
    calls = [call for call in walk.calls if call.touches_files]
    assert len(calls) > 30
    for call, fault in zip(calls, itertools.cycle([Fault.NO_SPACE, Fault.BROKEN_DISK])):
        ended = walk.meet(call, fault)
        assert "(INJECTED)" in ended.trace, f"{call}: not reached"
        assert ended.status in (0, REFUSED), f"{call}:\n{ended.output}"
        assert ended.status == 0 or ended.output.strip(), f"{call}: no reason is told"


def _two_steps(store: Path, generation: str) -> None:
    (store / CURRENT).unlink(missing_ok=True)
    (store / CURRENT).symlink_to(generation)


def _in_place(path: Path, content: bytes, mode: int) -> None:
    path.write_bytes(content)
    path.chmod(mode)


def _under_its_own_name(
    _stack: Stack, files: Mapping[PurePosixPath, File], store: Path, generation: str, owners: Owners, _run: Run
) -> None:
    write_tree(store / generation, files, owners)


@pytest.mark.parametrize(
    ("place", "planted", "found"),
    [
        ("stack.apply._switch", _two_steps, "neither the old nor the new"),
        ("stack.apply._write_checked", _under_its_own_name, "the next apply does not bring the new one into force"),
        ("stack.apply._discard", lambda _store, keep: keep, "File exists"),
        ("firstboot.seed.write_atomically", _in_place, "site.yaml"),
    ],
)
def test_planted_bugs_are_found(
    place: str, planted: Callable[..., object], found: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(place, planted)
    seeded = "seed" in place
    walk = Walk.of(Home(folder, Act.FIRST if seeded else Act.LATER))
    with pytest.raises((AssertionError, OSError, SiteError), match=found):  # noqa: PT012  a walk is one thing
        # From the side that the bug is nearer to.
        for call in walk.calls if seeded else reversed(walk.calls):
            walk.meet(call, Fault.KILL)


def test_only_what_is_walked_is_traced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow computer, on which strace is there before the process has come to its gate."""
    begin_session = os.setsid

    def dawdle() -> None:
        time.sleep(0.5)
        begin_session()

    monkeypatch.setattr(os, "setsid", dawdle)
    ended = trace_function((tmp_path / "made").mkdir, tmp_path)
    assert "mkdir(" in ended.trace
    assert "setsid(" not in ended.trace
    assert f"{tmp_path}/output" not in ended.trace
