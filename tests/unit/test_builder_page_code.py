"""The owner's code on the computer: made once, for nobody else to read, and what the device takes from the card."""

from __future__ import annotations

import re
import stat
from pathlib import Path

import pytest

from builder.errors import BuildError
from builder.page_code import open_code
from builder.seed import Seed
from firstboot.owner_code import read_code
from model.owner_code import CODE_NAME


def test_the_same_code_every_time_and_another_in_another_file(tmp_path: Path) -> None:
    path = tmp_path / "code.txt"
    first = open_code(path)
    assert re.fullmatch("[a-z2-9]{16}", first)
    assert path.read_text().replace("-", "").strip() == first
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert open_code(path) == first
    assert open_code(tmp_path / "other.txt") != first
    assert {each.name for each in tmp_path.iterdir()} == {"code.txt", "other.txt"}


def test_the_device_finds_on_the_card_what_stands_in_the_file(tmp_path: Path) -> None:
    path, card = tmp_path / "mine.txt", tmp_path / "card"
    path.write_text("Seven wet geese 7\n")
    path.chmod(0o600)
    card.mkdir()
    for name, text in Seed(code=open_code(path)).files().items():
        (card / name).write_text(text)
    assert [each.name for each in card.iterdir()] == [CODE_NAME]
    assert read_code(card) == "sevenwetgeese7"


@pytest.mark.parametrize(("mode", "code", "why"), [(0o640, "Seven wet geese 7", "0600"), (0o600, "geese", "5 letters")])
def test_a_file_that_would_not_do_is_refused_and_not_shown(tmp_path: Path, mode: int, code: str, why: str) -> None:
    path = tmp_path / "mine.txt"
    path.write_text(code)
    path.chmod(mode)
    with pytest.raises(BuildError, match=why) as refused:
        open_code(path)
    assert "geese" not in f"{refused.value} {refused.value.hint}"
    assert path.read_text() == code


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"none.*No such file"):
        open_code(tmp_path / "none" / "code.txt")
