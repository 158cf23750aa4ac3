"""The owner's own code, in a file on the card."""

from __future__ import annotations

from pathlib import Path

import pytest

from firstboot.owner_code import CODE_NAME, CodeError, read_code, take_code


@pytest.mark.parametrize(
    ("content", "code"),
    [(b"blue geese fly 7", "bluegeesefly7"), (b"\xef\xbb\xbfABCD-efgh-1234\r\n", "abcdefgh1234")],
)
def test_a_code_on_the_card(tmp_path: Path, content: bytes, code: str) -> None:
    (tmp_path / CODE_NAME).write_bytes(content)
    assert read_code(tmp_path) == code


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"geese-1", "6 letters and digits"),
        (b"", "0 letters"),
        (b"x" * 900, "900 letters"),
        (b"aaaaaaaaaaaaaa", "again and again"),
        ("schöne geese 12".encode(), "other characters"),
        (b"blue geese fly 7\nanother line", "other characters"),
        ("blue geese fly 7".encode("utf-16"), "UTF-8"),
    ],
)
def test_a_code_that_would_not_do_is_refused_and_not_shown(tmp_path: Path, content: bytes, why: str) -> None:
    (tmp_path / CODE_NAME).write_bytes(content)
    with pytest.raises(CodeError, match=why) as refused:
        read_code(tmp_path)
    assert "geese" not in str(refused.value)


def test_a_code_that_notepad_has_named_is_told(tmp_path: Path) -> None:
    assert read_code(tmp_path) is None
    (tmp_path / f"{CODE_NAME}.txt").write_text("blue geese fly 7")
    with pytest.raises(CodeError, match="rename it"):
        read_code(tmp_path)


def test_a_code_is_moved_off_the_card_with_the_site_only(tmp_path: Path) -> None:
    boot, kept = tmp_path / "boot", tmp_path / "first-code"
    boot.mkdir()
    take_code(boot, kept, fresh=True)
    (boot / CODE_NAME).write_text("blue geese fly 7")
    take_code(boot, kept, fresh=False)
    assert not any(path.exists() for path in (kept, boot / CODE_NAME)), "a device with a site obeys no card"
    (boot / CODE_NAME).write_text("blue geese fly 7")
    take_code(boot, kept, fresh=True)
    assert (kept.read_text(), kept.stat().st_mode & 0o777) == ("bluegeesefly7", 0o600)
    assert list(boot.iterdir()) == []
