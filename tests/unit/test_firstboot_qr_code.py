"""The QR code on the console: it is read back from the characters, as a camera sees them."""

from __future__ import annotations

import re

import pytest
import segno

from firstboot.lan import page_places
from firstboot.qr_code import WIDTH_BESIDE, beside_code, qr_code
from home.desk import greeting

_LONGEST = "https://192.168.100.200"
_ESCAPE = re.compile(r"\033\[[0-9;]*m")
_PAIRS = {"█": (0, 0), "▀": (0, 1), "▄": (1, 0), " ": (1, 1)}


def _modules(rows: tuple[str, ...]) -> list[list[int]]:
    """Read characters as rows of modules, 1 where a console stays dark."""
    return [[_PAIRS[character][half] for character in row] for row in rows for half in (0, 1)]


@pytest.mark.parametrize("text", [_LONGEST, "https://darkpipe.local", "https://10.0.0.1"])
def test_the_characters_are_the_codes_modules_within_a_light_border(text: str) -> None:
    expected = [[int(module) for module in row] for row in segno.make_qr(text, version=2, error="l").matrix]
    seen = _modules(qr_code(text))
    assert [row[2:-2] for row in seen[2 : 2 + len(expected)]] == expected
    assert not any(map(any, seen[:2])), "light above"
    assert not any(map(any, seen[2 + len(expected) : 4 + len(expected)])), "and below"
    assert not any(row[0] or row[1] or row[-1] or row[-2] for row in seen[:-1]), "and beside it"


def test_it_and_all_that_the_console_says_fit_on_a_small_screen() -> None:
    fingerprint = ":".join(["AB"] * 32)
    for addresses in (("192.168.100.200", "10.100.100.100"), ("[fd12:3456:789a:bcde:f012:3456:789a:bcde]",), ()):
        rows = _ESCAPE.sub("", greeting("darkpipe", addresses, fingerprint, "12345678")).splitlines()
        assert max(map(len, rows)) <= 80
        assert len(rows) <= 20, "there is room for a prompt, and for what came before"
        assert any("█" in row for row in rows)


def test_what_is_too_long_for_it_stands_alone() -> None:
    name = f"https://{'n' * 40}.local"
    assert qr_code(name) == ()
    assert beside_code([name], ["open", name]) == f"open\n{name}"


def test_lines_that_are_more_than_its_rows_stay_in_their_column() -> None:
    rows = _ESCAPE.sub("", beside_code([_LONGEST], [f"{number:>{WIDTH_BESIDE}}" for number in range(20)])).splitlines()
    assert [int(row[80 - WIDTH_BESIDE :]) for row in rows] == list(range(20))
    assert {len(row) for row in rows} == {80}


def test_addresses_of_ipv4_are_named_first_and_those_of_ipv6_where_there_is_no_other() -> None:
    assert page_places("mail", ("[fd00::1]", "192.168.1.2")) == ("https://192.168.1.2", "https://mail.local")
    assert page_places("mail", ("[fd00::1]",)) == ("https://[fd00::1]", "https://mail.local")
    assert page_places("mail", ()) == ("https://mail.local",)
