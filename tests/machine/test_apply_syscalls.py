"""The device's own `darkpipe apply`, with the daemons' real checkers, is cut off or fails at its system calls.

tests/unit walks all of them with a smaller Stack. Here a new sample is taken at each run; all of them
with `--every-call`.
"""

from __future__ import annotations

import random
import shutil
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.machine.conftest import SEED
from tests.machine.machine import Machine
from tests.syscalls import Call, Ended, Fault, changing_calls, trace_command

_APPLY = ("darkpipe", "apply", "--no-restart")
_SAMPLE = 4

Content = Mapping[str, tuple[int, int, bytes]]


@dataclass(frozen=True)
class Walk:
    """A device whose accounts are changed to and fro, behind its back.

    Args:
        before: what was in force when the accounts changed.
        after: what the next apply shall bring into force.
    """

    machine: Machine
    scratch: Path
    calls: Sequence[Call]
    before: Content
    after: Content

    def meet(self, call: Call, fault: Fault) -> Ended:
        """Put a fault on one call, look at what it leaves and how the next apply gets on, and go back."""
        _rename_alias(self.machine, "sales", "shop")
        ended = trace_command(self.machine.enter, _APPLY, self.scratch, (call, fault))
        assert _in_force(self.machine) in (self.before, self.after), f"{call}: neither the old nor the new one"
        self.machine.run(*_APPLY)
        assert _in_force(self.machine) == self.after, f"{call}: the next apply does not bring the new one into force"
        assert _rubbish(self.machine) == [], f"{call}"
        _go_back(self.machine)
        return ended


def _rename_alias(machine: Machine, old: str, new: str) -> None:
    accounts = machine.data / "darkpipe/accounts.json"
    accounts.write_text(accounts.read_text().replace(f"{old}@example.org", f"{new}@example.org"))


def _go_back(machine: Machine) -> None:
    """Bring the first accounts into force, with no other generation beside it."""
    _rename_alias(machine, "shop", "sales")
    machine.run(*_APPLY)
    store = machine.data / "darkpipe/config"
    for path in store.iterdir():
        if not path.is_symlink() and path.name != str((store / "current").readlink()):
            shutil.rmtree(path)


def _in_force(machine: Machine) -> Content:
    tree = (machine.data / "darkpipe/config/current").resolve(strict=True)
    return {
        str(path.relative_to(tree)): (
            stat.S_IMODE(path.stat().st_mode),
            path.stat().st_gid,
            b"" if path.is_dir() else path.read_bytes(),
        )
        for path in tree.rglob("*")
    }


def _rubbish(machine: Machine) -> list[str]:
    """What should not be there after an apply that got through."""
    generations = [path for path in (machine.data / "darkpipe/config").iterdir() if not path.is_symlink()]
    left = [str(path) for name in ("darkpipe", "tls") for path in (machine.data / name).rglob("*.new*")]
    return left + ([str(path) for path in generations] if len(generations) > 2 else [])


@pytest.fixture(scope="module")
def walk(new_machine: Callable[[str], Machine], tmp_path_factory: pytest.TempPathFactory) -> Walk:
    """A device, and the calls that an apply of a change makes on it."""
    machine = new_machine(SEED).start()
    scratch = tmp_path_factory.mktemp("strace")
    before = _in_force(machine)
    _rename_alias(machine, "sales", "shop")
    clean = trace_command(machine.enter, _APPLY, scratch)
    assert clean.status == 0, clean.output
    after = _in_force(machine)
    assert after != before
    _go_back(machine)
    assert _in_force(machine) == before
    return Walk(machine, scratch, changing_calls(clean.trace), before, after)


def _some(calls: Sequence[Call], request: pytest.FixtureRequest) -> list[Call]:
    if request.config.getoption("every_call"):
        return list(calls)
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed of the sample: {seed}")  # pytest shows it when the test fails
    return random.Random(seed).sample(list(calls), _SAMPLE)


def test_cut(walk: Walk, request: pytest.FixtureRequest) -> None:
    assert len(walk.calls) > 100
    for call in _some(walk.calls, request):
        assert walk.meet(call, Fault.KILL).killed, f"{call}: not reached"


def test_call_fails(walk: Walk, request: pytest.FixtureRequest) -> None:
    for call in _some([call for call in walk.calls if call.touches_files], request):
        ended = walk.meet(call, Fault.NO_SPACE)
        assert "(INJECTED)" in ended.trace, f"{call}: not reached"
        assert ended.status in (0, 1), f"{call}: {ended.output}"
        assert "Traceback" not in ended.output, f"{call}:\n{ended.output}"


def test_device_starts_after_all_that(walk: Walk) -> None:
    walk.machine.restart()
    assert walk.machine.failed_units() == []
