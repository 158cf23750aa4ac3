from __future__ import annotations

from collections.abc import Iterable

import pytest
from packaging.requirements import Requirement

from tests.locks import find_problems, read_lock

LOCK = """\
# Made by ./dev lock from pyproject.toml.
click==8.5.1 \\
    --hash=sha256:aa \\
    --hash=sha256:bb
colorama==0.4.6 ; sys_platform == 'win32' \\
    --hash=sha256:cc
rich==15.0.0 \\
    --hash=sha256:dd
"""


def requires(name: str) -> Iterable[Requirement]:
    texts = {"click": ["colorama; sys_platform == 'win32'"], "rich": ["click>=8", "ipywidgets; extra == 'jupyter'"]}
    return map(Requirement, texts.get(name, []))


def problems(lock: str, *wanted: str) -> list[str]:
    return find_problems(read_lock(lock), [Requirement(text) for text in wanted], requires)


def test_every_pin_is_read_with_its_hashes() -> None:
    click, colorama, _ = read_lock(LOCK)
    assert (click.name, click.version, click.hashes) == ("click", "8.5.1", ("sha256:aa", "sha256:bb"))
    assert str(colorama.marker) == 'sys_platform == "win32"'


def test_a_requirement_without_exact_version_is_no_pin() -> None:
    with pytest.raises(ValueError, match="click is not pinned"):
        read_lock("click>=8 --hash=sha256:aa\n")


def test_a_lock_that_fits_has_no_problems() -> None:
    assert problems(LOCK, "rich>=14") == []


def test_a_new_requirement_has_to_be_locked() -> None:
    found = problems(LOCK, "rich>=14", "pyyaml ; python_version == '3.13' and platform_machine == 'aarch64'")
    assert found == ["pyyaml is not pinned for Python 3.13 on aarch64"]


def test_requirements_of_requirements_count_also_those_of_extras() -> None:
    found = problems(LOCK, "rich[jupyter]")
    assert len(found) == 6
    assert all(problem.startswith("ipywidgets is not pinned") for problem in found)


def test_a_raised_lower_bound_is_seen() -> None:
    assert "rich>=16 is wanted for Python 3.11 on x86_64, 15.0.0 is pinned" in problems(LOCK, "rich>=16")


def test_a_pin_that_nothing_needs_is_seen() -> None:
    assert problems(LOCK, "click") == ["rich is pinned and nothing needs it"]


def test_a_pin_without_hash_is_seen() -> None:
    assert problems("click==8.5.1\n", "click") == ["click has no hash"]
